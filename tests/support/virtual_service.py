"""The service that tests of rules and maps carry out."""

from __future__ import annotations

from ipaddress import IPv4Address

from maglev0.core.service import HashMode, Service

SERVICE = Service(
    IPv4Address("198.51.100.1"), "eth0", "03:bf:c6:33:64:01", 5, HashMode.SOURCE_IP, 7
)
