"""The virtual service that a dataplane carries out: which address, where, and how its packets hash to buckets.

Pure: imports no I/O.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from ipaddress import IPv4Address


class HashMode(enum.StrEnum):
    """Which fields of a packet choose its bucket; the names are those of the CLUSTERIP target."""

    SOURCE_IP = "sourceip"
    SOURCE_IP_PORT = "sourceip-sourceport"
    SOURCE_IP_PORT_DEST_PORT = "sourceip-sourceport-destport"


class HashFamily(enum.StrEnum):
    """Which hash carries the buckets: CLUSTERIP and nftables hash differently, so one VIP is served by one of them at a time."""

    CLUSTERIP = "clusterip"
    NFTABLES = "nftables"


class Xdp(enum.StrEnum):
    """How an XDP program refuses foreign packets in front of nftables: by the driver, by the kernel for any driver, or not at all."""

    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"
    OFF = "off"


@dataclass(frozen=True)
class Service:
    """One VIP on one interface.

    `cluster_mac` is lower-case and colon-separated; `total_nodes` is the number of buckets, numbered 1..total_nodes;
    `hash_seed` is an unsigned 32-bit number.
    """

    vip: IPv4Address
    interface: str
    cluster_mac: str
    total_nodes: int
    hash_mode: HashMode
    hash_seed: int = field(repr=False)  # a secret
