"""The port of the packet hash against this kernel's nft rules, packet by packet."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple

import pytest
from pyroute2 import netns

from maglev0.core.packet_hash import PacketFields, PacketHash, jhash
from maglev0.core.service import HashFamily, HashMode

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.kernel

TOTALS = (1, 2, 5, 16, 65_537, 1_048_576)
SEEDS = (0, 1, 0x1234_5678, 0xFFFF_FFFF)
FLOWS = 2000  # per mode and seed, each judged once for every total
FIELDS = {
    HashMode.SOURCE_IP: "ip saddr",
    HashMode.SOURCE_IP_PORT: "ip saddr . th sport",
    HashMode.SOURCE_IP_PORT_DEST_PORT: "ip saddr . th sport . th dport",
}
PORTED = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
PORTLESS = (socket.IPPROTO_ICMP, socket.IPPROTO_ESP, socket.IPPROTO_SCTP, socket.IPPROTO_GRE)


class Namespace(NamedTuple):
    """A network namespace whose packets to 192.0.2.2 pass nft's output hook and go nowhere."""

    name: str
    sender: socket.socket

    def run(self, *command: str, text: str | None = None) -> str:
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.name}", *command],
            input=text,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout


@contextmanager
def named_namespace(name: str) -> Iterator[str]:
    netns.create(name)
    try:
        yield name
    finally:
        netns.remove(name)


def raw_socket(name: str) -> socket.socket:
    netns.pushns(name)
    try:
        return socket.socket(
            socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW
        )  # it stays in the namespace where it was made
    finally:
        netns.popns()


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    assert os.geteuid() == 0, "this test makes a network namespace and must run as root"
    with named_namespace(f"packethash-{os.getpid()}") as name, raw_socket(name) as sender:
        made = Namespace(name, sender)
        made.run("ip", "link", "add", "sink", "up", "type", "veth", "peer", "drain")
        made.run("ip", "link", "set", "drain", "up")
        made.run("ip", "address", "add", "192.0.2.1/24", "dev", "sink")
        made.run(
            "ip", "neighbour", "add", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "dev", "sink"
        )
        yield made


def ruleset(mode: HashMode, seed: int) -> str:
    """Record the bucket of every packet that leaves, for each total in a set of its own.

    The output hook judges a packet before the send returns, so there is nothing to wait for.
    """
    sets, rules = [], []
    for total in TOTALS:
        jhash = f"mod {total} seed {seed} offset 1"
        sets.append(
            f"set ported{total} {{ type ipv4_addr . inet_proto . inet_service . "
            f"inet_service . mark; flags dynamic; size {FLOWS}; }}"
        )
        sets.append(
            f"set portless{total} {{ type ipv4_addr . inet_proto . mark; flags "
            f"dynamic; size {FLOWS}; }}"
        )
        ported = (
            f"add @ported{total} {{ ip saddr . meta l4proto . th sport . th dport . meta mark }}"
        )
        portless = f"add @portless{total} {{ ip saddr . meta l4proto . meta mark }}"
        rules.append(
            f"meta l4proto {{ tcp, udp }} meta mark set jhash {FIELDS[mode]} {jhash} {ported}"
        )
        rules.append(
            f"meta l4proto != {{ tcp, udp }} meta mark set jhash ip saddr {jhash} {portless}"
        )
    chain = "chain out { type filter hook output priority 0;\n" + "\n".join(rules) + "\n}"
    return "flush ruleset\ntable ip hashes {\n" + "\n".join(sets) + "\n" + chain + "\n}\n"


def some_flows(rng: random.Random) -> list[PacketFields]:
    flows = {
        PacketFields(IPv4Address(address), protocol, port, port)
        for address in ("1.0.0.1", "223.255.255.254")
        for protocol in PORTED
        for port in (1, 65_535)
    }
    while len(flows) < FLOWS:
        source = IPv4Address(rng.randrange(0x0100_0000, 0xE000_0000))
        ported = rng.random() < 0.75
        ports = (rng.randrange(1, 0x1_0000), rng.randrange(1, 0x1_0000)) if ported else ()
        flows.add(PacketFields(source, rng.choice(PORTED if ported else PORTLESS), *ports))
    return sorted(flows)


def packet(flow: PacketFields) -> bytes:
    tcp_syn = struct.pack(
        ">HHIIBBHHH", flow.source_port, flow.dest_port, 0, 0, 5 << 4, 2, 1024, 0, 0
    )
    udp = struct.pack(">HHHH", flow.source_port, flow.dest_port, 8, 0)
    payload = {socket.IPPROTO_TCP: tcp_syn, socket.IPPROTO_UDP: udp}.get(
        flow.protocol, struct.pack(">BBHI", 8, 0, 0, 0)
    )
    header = struct.pack(
        ">BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        0,
        0,
        64,
        flow.protocol,
        0,
        flow.source.packed,
        bytes((192, 0, 2, 2)),
    )
    return header + payload


def buckets(namespace: Namespace, total: int) -> dict[PacketFields, int]:
    """What the kernel recorded."""
    seen: dict[PacketFields, int] = {}
    for name in (f"ported{total}", f"portless{total}"):
        listing = json.loads(namespace.run("nft", "-j", "-n", "list", "set", "ip", "hashes", name))
        for element in listing["nftables"][1]["set"]["elem"]:
            source, protocol, *ports, bucket = element["concat"]
            seen[PacketFields(IPv4Address(source), int(protocol), *ports)] = bucket
    return seen


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", HashMode)
def test_the_kernel_puts_each_flow_in_the_bucket_that_the_port_says(
    namespace: Namespace, mode: HashMode, seed: int
) -> None:
    namespace.run("nft", "-f", "-", text=ruleset(mode, seed))
    flows = some_flows(random.Random(f"{mode} {seed}"))
    for flow in flows:
        namespace.sender.sendto(packet(flow), ("192.0.2.2", 0))
    for total in TOTALS:
        ours = PacketHash(HashFamily.NFTABLES, mode, seed, total)
        assert buckets(namespace, total) == {flow: ours.bucket(flow) for flow in flows}


# IPv6: no dataplane serves it yet, but what the port computes of its longer keys is the kernel's.

IP6_TOTAL = 1_048_576
IP6_DESTINATION = IPv6Address("2001:db8::2")


class Ip6Flow(NamedTuple):
    """The fields of a TCP packet over IPv6 that the hash may read."""

    source: IPv6Address
    source_port: int
    dest_port: int

    def key(self, mode: HashMode) -> bytes:
        """The registers that the kernel hashes."""
        ports = struct.pack(">HxxHxx", self.source_port, self.dest_port)
        length = {HashMode.SOURCE_IP: 0, HashMode.SOURCE_IP_PORT: 4}.get(mode, 8)
        return self.source.packed + ports[:length]

    def packet(self) -> bytes:
        """A pure SYN with its IPv6 header."""
        syn = struct.pack(
            ">HHIIBBHHH", self.source_port, self.dest_port, 0, 0, 5 << 4, 2, 1024, 0, 0
        )
        header = struct.pack(">IHBB", 6 << 28, len(syn), socket.IPPROTO_TCP, 64)
        return header + self.source.packed + IP6_DESTINATION.packed + syn


@pytest.fixture(scope="module")
def ip6_namespace() -> Iterator[Namespace]:
    with named_namespace(f"packethash6-{os.getpid()}") as name:
        netns.pushns(name)
        try:
            sender = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        finally:
            netns.popns()
        with sender:
            made = Namespace(name, sender)
            made.run("ip", "link", "add", "sink", "up", "type", "veth", "peer", "drain")
            made.run("ip", "link", "set", "drain", "up")
            made.run("ip", "-6", "address", "add", "2001:db8::1/64", "dev", "sink", "nodad")
            neighbour = (str(IP6_DESTINATION), "lladdr", "02:00:00:00:00:02", "dev", "sink")
            made.run("ip", "-6", "neighbour", "add", *neighbour)
            yield made


def ip6_ruleset(mode: HashMode, seed: int) -> str:
    """Record the bucket of every TCP packet that leaves."""
    fields = FIELDS[mode].replace("ip saddr", "ip6 saddr")
    kind = "ipv6_addr . inet_service . inet_service . mark"
    return f"""flush ruleset
table ip6 hashes {{
set seen {{ type {kind}; flags dynamic; size {FLOWS}; }}
chain out {{ type filter hook output priority 0;
meta l4proto tcp meta mark set jhash {fields} mod {IP6_TOTAL} seed {seed} offset 1
meta l4proto tcp add @seen {{ ip6 saddr . th sport . th dport . meta mark }}
}}
}}
"""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", HashMode)
def test_the_kernel_hashes_ipv6_packets_as_jhash_does(
    ip6_namespace: Namespace, mode: HashMode, seed: int
) -> None:
    ip6_namespace.run("nft", "-f", "-", text=ip6_ruleset(mode, seed))
    rng = random.Random(f"ip6 {mode} {seed}")
    flows = {
        Ip6Flow(
            IPv6Address((0x2001_0DB8 << 96) + rng.randrange(1 << 96)),
            rng.randrange(1, 0x1_0000),
            rng.randrange(1, 0x1_0000),
        )
        for _ in range(500)
    }
    for flow in flows:
        ip6_namespace.sender.sendto(flow.packet(), (str(IP6_DESTINATION), 0))
    listing = json.loads(
        ip6_namespace.run("nft", "-j", "-n", "list", "set", "ip6", "hashes", "seen")
    )
    elements = [element["concat"] for element in listing["nftables"][1]["set"]["elem"]]
    seen = {Ip6Flow(IPv6Address(source), *ports): bucket for source, *ports, bucket in elements}
    assert seen == {flow: (jhash(flow.key(mode), seed) * IP6_TOTAL >> 32) + 1 for flow in flows}
