"""The virtual service that a dataplane carries out: its address, its interface, its buckets.

Pure: imports no I/O.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from ipaddress import IPv4Address


class HashMode(enum.StrEnum):
    """Which fields of a packet choose its bucket; the CLUSTERIP target has the same names."""

    SOURCE_IP = "sourceip"
    SOURCE_IP_PORT = "sourceip-sourceport"
    SOURCE_IP_PORT_DEST_PORT = "sourceip-sourceport-destport"


class HashFamily(enum.StrEnum):
    """Which hash chooses the buckets.

    CLUSTERIP and nftables hash differently, so all nodes of one VIP use the same one.
    """

    CLUSTERIP = "clusterip"
    NFTABLES = "nftables"


class Delivery(enum.StrEnum):
    """How packets for the VIP reach the node that owns their bucket.

    `FLOOD`: the switch sends each packet to every node, by the cluster MAC, and the owner accepts
    it. `FORWARD`, which no version carries out yet: one node receives a packet and sends it on.
    """

    FLOOD = "flood"
    FORWARD = "forward"


class Xdp(enum.StrEnum):
    """Which XDP filter refuses foreign packets before nftables sees them.

    `NATIVE` runs in the network driver, `GENERIC` in the kernel for any driver.
    """

    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"
    OFF = "off"


@dataclass(frozen=True)
class Service:
    """One VIP on one interface; every dataplane serves IPv4 only.

    `cluster_mac` is lower-case and colon-separated; `total_nodes` is the number of buckets,
    numbered 1..total_nodes; `hash_seed` is an unsigned 32-bit number.
    """

    vip: IPv4Address
    interface: str
    cluster_mac: str
    total_nodes: int
    hash_mode: HashMode
    hash_seed: int = field(repr=False)  # a secret
