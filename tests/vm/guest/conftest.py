"""What the tests inside the machine stand on: namespaces that each test has for itself, and the old iptables."""

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
    warnings.simplefilter(
        "ignore"
    )  # python-iptables leaves pipes open at import, and its own escapes are no longer Python's
    import iptc  # noqa: F401


@pytest.fixture
def space() -> Iterator[Space]:
    """A namespace with a live eth0, entered by this thread for the time of the test."""
    with Space.made() as made:
        yield made


@pytest.fixture
def wire(space: Space) -> Iterator[Wire]:
    with Wire.laid(space) as laid:
        yield laid


@pytest.fixture
def service() -> Service:
    """What the README's rule by hand carries out."""
    return Service(VIP, "eth0", "01:00:5e:00:00:14", 5, HashMode.SOURCE_IP, 0)


@pytest.fixture
def dataplane(space: Space, service: Service) -> ClusterIP:  # noqa: ARG001  it acts in the namespace that the thread has entered
    return ClusterIP(service, ENDLESS_MS)
