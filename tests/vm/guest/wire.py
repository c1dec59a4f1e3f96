"""Frames into the far end of a server's cable, and which of them the server's rules let through."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from pyroute2 import IPRoute

from maglev0.core.packet_hash import PacketFields
from maglev0.lab.testbed import namespace
from tests.support.patience import PATIENCE_S
from tests.vm.guest.space import Space

VIP = IPv4Address("198.51.100.1")
MARKER = IPv4Address(
    "192.0.2.1"
)  # an address of the server that the rule does not judge: what was sent to it last arrives last
CLUSTER_MAC = "03:bf:c6:33:64:01"
ICMP, TCP, UDP, GRE, ESP = 1, 6, 17, 47, 50
PROTOCOLS = (ICMP, TCP, UDP, GRE, ESP)
SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h; Python's socket module lacks it
RECEIVE_BYTES = 1 << 24  # of a queue for a whole pass: each small packet counts about a kilobyte


class Wire:
    """Sends frames into the far end of the server's cable and tells which of them the server's
    rules let through.
    """

    def __init__(self, space: Space) -> None:
        with namespace.inside(space.outside):
            self._far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._far.bind(("far", 0x0800))
        # A raw socket is handed what has passed INPUT, whether or not anything listens.
        self._near = {
            protocol: socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
            for protocol in PROTOCOLS
        }
        for near in self._near.values():
            near.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
            near.settimeout(PATIENCE_S)

    @classmethod
    @contextlib.contextmanager
    def laid(cls, space: Space) -> Iterator[Self]:
        """To the server that this thread has entered, for the time of a test."""
        # One processor: packets sent from two could overtake each other on their way to the marker.
        processors = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(processors)})
        for switch in (
            "net/ipv4/conf/all/rp_filter",
            "net/ipv4/conf/eth0/rp_filter",
        ):  # sources need not be reachable
            Path("/proc/sys", switch).write_text("0")
        with IPRoute() as netlink:
            netlink.addr(
                "add",
                index=netlink.link_lookup(ifname="eth0")[0],
                address=str(MARKER),
                prefixlen=32,
            )
        try:
            with cls(space) as made:
                yield made
        finally:
            os.sched_setaffinity(0, processors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._far, *self._near.values()):
            sock.close()

    def accepted(self, flows: list[PacketFields]) -> frozenset[int]:
        """Send one packet of each flow; the indices of those that were let through."""
        for index, flow in enumerate(flows):
            self._far.send(frame(index, flow, VIP))
        for protocol in PROTOCOLS:
            self._far.send(
                frame(len(flows), PacketFields(IPv4Address("192.0.2.2"), protocol, 1, 1), MARKER)
            )
        return frozenset(
            index for near in self._near.values() for index in _until_marker(near, len(flows))
        )


def _until_marker(near: socket.socket, marker: int) -> Iterator[int]:
    while (identification := int.from_bytes(near.recv(2048)[4:6])) != marker:
        yield identification


def frame(identification: int, flow: PacketFields, destination: IPv4Address) -> bytes:
    """A minimal IPv4 packet of the flow in a frame to the cluster's MAC."""
    payload = _payload(flow, destination)
    header = (
        struct.pack(
            ">BBHHHBBH", 0x45, 0, 20 + len(payload), identification, 0, 64, flow.protocol, 0
        )
        + flow.source.packed
        + destination.packed
    )
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    return (
        bytes.fromhex(CLUSTER_MAC.replace(":", ""))
        + b"\x02\0\0\0\0\x01"
        + b"\x08\0"
        + header
        + payload
    )


def _payload(flow: PacketFields, destination: IPv4Address) -> bytes:
    ports = struct.pack(">HH", flow.source_port, flow.dest_port)
    match flow.protocol:
        case 1:  # ICMP echo request
            body = struct.pack(">BBHHH", 8, 0, 0, flow.source_port, 1)
            return body[:2] + struct.pack(">H", checksum(body)) + body[4:]
        case 6:  # TCP SYN; connection tracking checks its sum over the pseudo-header of RFC 9293
            body = ports + struct.pack(">IIBBHHH", 1, 0, 5 << 4, 2, 1024, 0, 0)
            summed = checksum(
                flow.source.packed + destination.packed + struct.pack(">HH", TCP, len(body)) + body
            )
            return body[:16] + struct.pack(">H", summed) + body[18:]
        case 17:  # UDP without a checksum
            return ports + struct.pack(">HH", 8, 0)
        case _:  # ESP has its SPI where others have their ports; GRE must be of version 0
            return (ports if flow.protocol == ESP else b"\0\0\x08\0") + b"\0" * 8


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = int(sum(struct.unpack(f">{len(data) // 2}H", data)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
