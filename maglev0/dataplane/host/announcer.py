"""Announcing a VIP to the neighbours on the link, so that they send to the cluster MAC."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address
from typing import Protocol

from maglev0.core.service import Service
from maglev0.errors import DataplaneError

_ETH_P_ARP = 0x0806
# Ethernet, IPv4, the lengths of their addresses, request (RFC 826)
_ARP_REQUEST = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
_BROADCAST = b"\xff" * 6


class Announcer(Protocol):
    """Announces one VIP on one interface: by ARP for IPv4, by Neighbour Discovery for IPv6."""

    def announce(self) -> None:
        """Tell all neighbours the cluster MAC of the VIP, once; DataplaneError when that fails."""


class ArpAnnouncer:
    """Announces an IPv4 VIP by gratuitous ARP (RFC 5227, 2.3)."""

    def __init__(self, interface: str, vip: IPv4Address, cluster_mac: str) -> None:
        self._interface = interface
        self._vip = vip
        self._cluster_mac = bytes.fromhex(cluster_mac.replace(":", ""))

    def announce(self) -> None:
        """Broadcast one ARP request for the VIP, whose sender is the VIP at the cluster MAC.

        The source of the Ethernet frame is the interface's own MAC: a switch must never learn a
        port for the cluster MAC.
        """
        address = self._vip.packed
        body = _ARP_REQUEST + self._cluster_mac + address + b"\0" * 6 + address
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as link:
                link.bind((self._interface, _ETH_P_ARP))
                own = link.getsockname()[4]
                link.send(_BROADCAST + own + struct.pack("!H", _ETH_P_ARP) + body)
        except OSError as error:
            raise DataplaneError(
                f"gratuitous ARP for {self._vip} on {self._interface}: {error.strerror}"
            ) from error


def announcer_of(service: Service) -> Announcer:
    """Return the announcer for the family of the service's VIP."""
    return ArpAnnouncer(service.interface, service.vip, service.cluster_mac)
