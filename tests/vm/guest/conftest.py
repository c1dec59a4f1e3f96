"""Fixtures of the tests inside the machine: a namespace for each test, and the old iptables."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from maglev0.core.service import HashMode, Service
from maglev0.dataplane.clusterip.dataplane import ClusterIP
from tests.vm.guest.moves import ENDLESS_MS
from tests.vm.guest.space import Space
from tests.vm.guest.wire import VIP, Wire

with warnings.catch_warnings():
    # At import python-iptables leaves pipes open, and Python warns of its invalid escapes.
    warnings.simplefilter("ignore")
    import iptc  # noqa: F401


@pytest.fixture
def space() -> Iterator[Space]:
    """A namespace with a live eth0; the test's thread is in it until the test ends."""
    with Space.made() as made:
        yield made


@pytest.fixture
def wire(space: Space) -> Iterator[Wire]:
    with Wire.laid(space) as laid:
        yield laid


@pytest.fixture
def service() -> Service:
    """The service that the README's manual iptables rule describes."""
    return Service(VIP, "eth0", "01:00:5e:00:00:14", 5, HashMode.SOURCE_IP, 0)


@pytest.fixture
def dataplane(space: Space, service: Service) -> ClusterIP:  # noqa: ARG001  it acts in this namespace
    return ClusterIP(service, ENDLESS_MS)
