"""An exporter that tests of metrics share."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from maglev0.telemetry.metrics.exporter import Exporter

VIP, OTHER = IPv4Address("198.51.100.1"), IPv4Address("198.51.100.2")


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    made = Exporter()
    made.start("127.0.0.1", 0)
    yield made
    made.stop()
