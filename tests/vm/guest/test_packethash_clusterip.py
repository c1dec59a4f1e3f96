"""The port of the packet hash against the module itself: which bucket accepts which packet."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

import pytest
from pyroute2 import IPRoute

from maglev0.dataplane.clusterip import ClusterIP
from maglev0.lab import namespace
from maglev0.packethash import Flow, PacketHash
from maglev0.service import HashFamily, HashMode, Service
from tests.vm.guest.space import Space

VIP = IPv4Address("198.51.100.1")
MARKER = IPv4Address("192.0.2.1")  # an address of the server that the rule does not judge: what was sent to it last arrives last
CLUSTER_MAC = "03:bf:c6:33:64:01"
ICMP, TCP, UDP, GRE, ESP = 1, 6, 17, 47, 50
PROTOCOLS = (ICMP, TCP, UDP, GRE, ESP)
FLOWS = 150
ARRIVAL_TIMEOUT_S = 20.0
SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h; Python's socket module lacks it
RECEIVE_BYTES = 1 << 24  # of a queue for a whole pass: each small packet counts about a kilobyte


class Wire:
    """Sends frames into the far end of the server's cable and tells which of them the server's rules let through."""

    def __init__(self, space: Space) -> None:
        with namespace.inside(space.outside):
            self._far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._far.bind(("far", 0x0800))
        # A raw socket is handed what has passed INPUT, whether or not anything listens.
        self._near = {protocol: socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) for protocol in PROTOCOLS}
        for near in self._near.values():
            near.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
            near.settimeout(ARRIVAL_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._far, *self._near.values()):
            sock.close()

    def accepted(self, flows: list[Flow]) -> frozenset[int]:
        """Send one packet of each flow; the indices of those that were let through."""
        for index, flow in enumerate(flows):
            self._far.send(frame(index, flow, VIP))
        for protocol in PROTOCOLS:
            self._far.send(frame(len(flows), Flow(IPv4Address("192.0.2.2"), protocol, 1, 1), MARKER))
        return frozenset(index for near in self._near.values() for index in _until_marker(near, len(flows)))


def _until_marker(near: socket.socket, marker: int) -> Iterator[int]:
    while (identification := int.from_bytes(near.recv(2048)[4:6])) != marker:
        yield identification


def frame(identification: int, flow: Flow, destination: IPv4Address) -> bytes:
    """A minimal IPv4 packet of the flow in a frame to the cluster's MAC."""
    payload = _payload(flow, destination)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), identification, 0, 64, flow.protocol, 0) + flow.source.packed + destination.packed
    header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    return bytes.fromhex(CLUSTER_MAC.replace(":", "")) + b"\x02\0\0\0\0\x01" + b"\x08\0" + header + payload


def _payload(flow: Flow, destination: IPv4Address) -> bytes:
    ports = struct.pack(">HH", flow.source_port, flow.dest_port)
    match flow.protocol:
        case 1:  # ICMP echo request
            body = struct.pack(">BBHHH", 8, 0, 0, flow.source_port, 1)
            return body[:2] + struct.pack(">H", checksum(body)) + body[4:]
        case 6:  # TCP SYN; connection tracking checks its sum over the pseudo-header of RFC 9293
            body = ports + struct.pack(">IIBBHHH", 1, 0, 5 << 4, 2, 1024, 0, 0)
            summed = checksum(flow.source.packed + destination.packed + struct.pack(">HH", TCP, len(body)) + body)
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


def random_flows(chance: random.Random) -> list[Flow]:
    def source() -> IPv4Address:
        return next(
            address for address in iter(lambda: IPv4Address(chance.randrange(1 << 32)), None) if address.is_global and not address.is_multicast
        )

    return [Flow(source(), chance.choice(PROTOCOLS), chance.randrange(1, 1 << 16), chance.randrange(1, 1 << 16)) for _ in range(FLOWS)]


@pytest.fixture
def wire(space: Space) -> Iterator[Wire]:
    # One processor: packets sent from two could overtake each other on their way to the marker.
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    for switch in ("net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter"):  # sources need not be reachable
        Path("/proc/sys", switch).write_text("0")
    with IPRoute() as netlink:
        netlink.addr("add", index=netlink.link_lookup(ifname="eth0")[0], address=str(MARKER), prefixlen=32)
    try:
        with Wire(space) as made:
            yield made
    finally:
        os.sched_setaffinity(0, processors)


@pytest.mark.parametrize("mode", HashMode)
@pytest.mark.parametrize("total_nodes", [16, 5])
def test_the_bucket_that_accepts_is_the_one_that_the_port_computes(wire: Wire, mode: HashMode, total_nodes: int) -> None:
    seed = random.randrange(1 << 32)
    flows = random_flows(random.Random(seed))
    computed = [PacketHash(HashFamily.CLUSTERIP, mode, seed, total_nodes).node_number(flow) for flow in flows]
    dataplane = ClusterIP(Service(VIP, "eth0", CLUSTER_MAC, total_nodes, mode, seed))
    everything = frozenset(range(1, total_nodes + 1))

    async def bisect() -> list[int]:
        await dataplane.open()
        assert wire.accepted(flows) == frozenset(), f"accepted without a bucket in force, seed {seed}"
        await dataplane.apply(everything)
        assert wire.accepted(flows) == frozenset(range(FLOWS)), f"refused with all buckets in force, seed {seed}"
        seen = [1] * FLOWS
        for bit in range(total_nodes.bit_length()):
            await dataplane.apply(frozenset(bucket for bucket in everything if (bucket - 1) >> bit & 1))
            for index in wire.accepted(flows):
                seen[index] += 1 << bit
        await dataplane.close()
        return seen

    assert asyncio.run(bisect()) == computed, f"seed {seed}"
    assert len(set(computed)) == total_nodes, "the flows do not reach every bucket"


def test_in_no_state_is_a_packet_accepted_before_the_first_bucket_is_owned(wire: Wire) -> None:
    """The address up already, by hand: then only the rule stands between the packets and the services."""
    flows = random_flows(random.Random(1))
    service = Service(VIP, "eth0", CLUSTER_MAC, 1, HashMode.SOURCE_IP, 0)
    with IPRoute() as netlink:
        netlink.addr("add", index=netlink.link_lookup(ifname="eth0")[0], address=str(VIP), prefixlen=32)
    assert wire.accepted(flows) == frozenset(range(FLOWS)), "without a rule the address answers for all"
    dataplane = ClusterIP(service)

    async def open_and_own() -> None:
        await dataplane.open()
        assert wire.accepted(flows) == frozenset()
        await dataplane.apply(frozenset({1}))
        assert wire.accepted(flows) == frozenset(range(FLOWS))

    asyncio.run(open_and_own())
