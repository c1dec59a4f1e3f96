from __future__ import annotations

import struct
import sys
from ipaddress import IPv4Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maglev0.core.packet_hash import PacketFields, PacketHash, jhash
from maglev0.core.service import HashFamily, HashMode

U32 = 0xFFFF_FFFF
TCP, UDP, ICMP, ESP, AH, SCTP = 6, 17, 1, 50, 51, 132

u32 = st.integers(0, U32)
addresses = u32.map(IPv4Address)
ports = st.integers(0, 0xFFFF)
totals = st.one_of(st.integers(1, 16), st.integers(1, 1 << 20))


def lookup3(key: bytes, initval: int) -> int:
    """The slow reference: Bob Jenkins' `hashlittle`, a line of his for a line here."""

    def rotate(word: int, by: int) -> int:
        return (word << by | word >> (32 - by)) & U32

    x: int
    y: int
    z: int
    a = b = c = (0xDEAD_BEEF + len(key) + initval) & U32
    if not key:
        return c
    while len(key) > 12:
        x, y, z = struct.unpack("<III", key[:12])
        key = key[12:]
        a, b, c = (a + x) & U32, (b + y) & U32, (c + z) & U32
        a, c = (a - c & U32) ^ rotate(c, 4), (c + b) & U32
        b, a = (b - a & U32) ^ rotate(a, 6), (a + c) & U32
        c, b = (c - b & U32) ^ rotate(b, 8), (b + a) & U32
        a, c = (a - c & U32) ^ rotate(c, 16), (c + b) & U32
        b, a = (b - a & U32) ^ rotate(a, 19), (a + c) & U32
        c, b = (c - b & U32) ^ rotate(b, 4), (b + a) & U32
    x, y, z = struct.unpack("<III", key.ljust(12, b"\0"))
    a, b, c = (a + x) & U32, (b + y) & U32, (c + z) & U32
    c = (c ^ b) - rotate(b, 14) & U32
    a = (a ^ c) - rotate(c, 11) & U32
    b = (b ^ a) - rotate(a, 25) & U32
    c = (c ^ b) - rotate(b, 16) & U32
    a = (a ^ c) - rotate(c, 4) & U32
    b = (b ^ a) - rotate(a, 14) & U32
    return (c ^ b) - rotate(b, 24) & U32


@pytest.mark.parametrize(
    ("key", "initval", "expected"),
    [
        (b"", 0, 0xDEAD_BEEF),
        (b"Four score and seven years ago", 0, 0x1777_0551),
        (b"Four score and seven years ago", 1, 0xCD62_8161),
    ],
)
def test_the_reference_gives_what_its_author_published(
    key: bytes, initval: int, expected: int
) -> None:
    assert lookup3(key, initval) == expected


LITTLE_ENDIAN = pytest.mark.skipif(
    sys.byteorder == "big",
    reason="the kernel hashes packets in the machine's byte order; these are little-endian values",
)


@LITTLE_ENDIAN
@given(st.binary(max_size=64), u32)
@example(b"", 0)
@example(b"\xff" * 12, U32)
@example(b"\xff" * 13, U32)
@example(b"\xff" * 24, U32)
@example(b"\xff" * 25, U32)
@settings(deadline=None)
def test_jhash_is_lookup3_of_bytes_of_any_length(key: bytes, initval: int) -> None:
    assert jhash(key, initval) == lookup3(key, initval)


# What the kernel's jhash gives over `ip6 saddr` of 2001:db8::7, then port 40000, then port 443,
# each port in a zeroed register; tests/kernel/test_packethash_nftables.py asks the kernel itself.
IP6 = bytes.fromhex("20010db8000000000000000000000007")
SPORT, DPORT = b"\x9c\x40\0\0", b"\x01\xbb\0\0"


@LITTLE_ENDIAN
@pytest.mark.parametrize(
    ("key", "seed", "expected"),
    [
        (b"", 0, 0xDEAD_BEEF),
        (b"Four score and seven years ago", 0, 0x1777_0551),
        (IP6, 0, 0x7F52_434B),
        (IP6 + SPORT, 1, 0xF657_29EC),
        (IP6 + SPORT + DPORT, 0xDEAD_BEEF, 0xC62F_BCB7),
    ],
)
def test_golden_hashes_of_long_keys(key: bytes, seed: int, expected: int) -> None:
    assert jhash(key, seed) == expected


# Golden buckets: a client whose bucket changed between two releases would meet two nodes during an
# upgrade, or none.

GOLDEN_FLOWS = (
    PacketFields(IPv4Address("203.0.113.7"), TCP, 40_000, 443),
    PacketFields(IPv4Address("203.0.113.7"), UDP, 40_000, 53),
    PacketFields(IPv4Address("10.1.2.3"), ICMP),
    PacketFields(IPv4Address("10.1.2.3"), ESP, 0x1234, 0x5678),
)


@LITTLE_ENDIAN
@pytest.mark.parametrize(
    ("family", "mode", "seed", "expected"),
    [
        (HashFamily.CLUSTERIP, HashMode.SOURCE_IP, 0, (12921, 12921, 13080, 13080)),
        (HashFamily.CLUSTERIP, HashMode.SOURCE_IP, 0xDEAD_BEEF, (33395, 33395, 33213, 33213)),
        (HashFamily.CLUSTERIP, HashMode.SOURCE_IP_PORT, 0, (13323, 13323, 4315, 60970)),
        (HashFamily.CLUSTERIP, HashMode.SOURCE_IP_PORT, 0xDEAD_BEEF, (24080, 24080, 58593, 53193)),
        (HashFamily.CLUSTERIP, HashMode.SOURCE_IP_PORT_DEST_PORT, 0, (61579, 51314, 30676, 8444)),
        (
            HashFamily.CLUSTERIP,
            HashMode.SOURCE_IP_PORT_DEST_PORT,
            0xDEAD_BEEF,
            (1728, 9982, 54755, 4923),
        ),
        (HashFamily.NFTABLES, HashMode.SOURCE_IP, 0, (43638, 43638, 51782, 51782)),
        (HashFamily.NFTABLES, HashMode.SOURCE_IP, 0xDEAD_BEEF, (33930, 33930, 53979, 53979)),
        (HashFamily.NFTABLES, HashMode.SOURCE_IP_PORT, 0, (14442, 14442, 51782, 51782)),
        (HashFamily.NFTABLES, HashMode.SOURCE_IP_PORT, 0xDEAD_BEEF, (37145, 37145, 53979, 53979)),
        (HashFamily.NFTABLES, HashMode.SOURCE_IP_PORT_DEST_PORT, 0, (12571, 52064, 51782, 51782)),
        (
            HashFamily.NFTABLES,
            HashMode.SOURCE_IP_PORT_DEST_PORT,
            0xDEAD_BEEF,
            (36074, 15440, 53979, 53979),
        ),
    ],
)
def test_golden_buckets(
    family: HashFamily, mode: HashMode, seed: int, expected: tuple[int, ...]
) -> None:
    hashed = PacketHash(family, mode, seed, total_nodes=65_537)
    assert tuple(hashed.bucket(flow) for flow in GOLDEN_FLOWS) == expected


# Laws.

flows = st.builds(PacketFields, addresses, st.integers(0, 255), ports, ports)
hashes = st.builds(PacketHash, st.sampled_from(HashFamily), st.sampled_from(HashMode), u32, totals)


@given(hashes, flows)
@settings(deadline=None)
def test_every_packet_has_a_bucket(hashed: PacketHash, flow: PacketFields) -> None:
    assert 1 <= hashed.bucket(flow) <= hashed.total_nodes


@given(hashes, flows)
@settings(deadline=None)
def test_one_bucket_takes_every_packet(hashed: PacketHash, flow: PacketFields) -> None:
    assert hashed._replace(total_nodes=1).bucket(flow) == 1


@given(hashes, flows, ports, ports)
@settings(deadline=None)
def test_a_mode_sees_no_port_that_it_does_not_name(
    hashed: PacketHash, flow: PacketFields, source_port: int, dest_port: int
) -> None:
    by_source = hashed._replace(mode=HashMode.SOURCE_IP)
    assert by_source.bucket(flow) == by_source.bucket(
        flow._replace(source_port=source_port, dest_port=dest_port)
    )
    by_source_port = hashed._replace(mode=HashMode.SOURCE_IP_PORT)
    assert by_source_port.bucket(flow) == by_source_port.bucket(flow._replace(dest_port=dest_port))


@given(hashes, flows, st.sampled_from([ICMP, 2, 47, 89]))
@settings(deadline=None)
def test_protocols_without_ports_do_not_hash_any(
    hashed: PacketHash, flow: PacketFields, protocol: int
) -> None:
    portless = flow._replace(protocol=protocol)
    assert hashed.bucket(portless) == hashed.bucket(portless._replace(source_port=0, dest_port=0))


@pytest.mark.parametrize("mode", HashMode)
@given(flow=flows, seed=u32, protocol=st.sampled_from([ICMP, ESP, AH, SCTP]))
@settings(deadline=None)
def test_nftables_hashes_all_but_tcp_and_udp_by_their_source(
    mode: HashMode, flow: PacketFields, seed: int, protocol: int
) -> None:
    by_mode = PacketHash(HashFamily.NFTABLES, mode, seed, 65_537)
    assert by_mode.bucket(flow._replace(protocol=protocol)) == by_mode._replace(
        mode=HashMode.SOURCE_IP
    ).bucket(flow)


@given(flow=flows, seed=u32, protocol=st.sampled_from([TCP, UDP, ESP, AH, SCTP]))
@settings(deadline=None)
def test_clusterip_hashes_the_ports_of_all_protocols_that_have_them(
    flow: PacketFields, seed: int, protocol: int
) -> None:
    by_ports = PacketHash(HashFamily.CLUSTERIP, HashMode.SOURCE_IP_PORT_DEST_PORT, seed, 65_537)
    assert by_ports.bucket(flow._replace(protocol=protocol)) == by_ports.bucket(
        flow._replace(protocol=TCP)
    )


@given(addresses, u32, totals)
@settings(deadline=None)
def test_the_families_differ_in_the_byte_order_of_the_address(
    address: IPv4Address, seed: int, total_nodes: int
) -> None:
    def bucket(family: HashFamily, source: IPv4Address) -> int:
        return PacketHash(family, HashMode.SOURCE_IP, seed, total_nodes).bucket(
            PacketFields(source, TCP)
        )

    assert bucket(HashFamily.NFTABLES, address) == bucket(
        HashFamily.CLUSTERIP, IPv4Address(int.from_bytes(address.packed, "little"))
    )


@pytest.mark.parametrize("family", HashFamily)
@pytest.mark.parametrize("mode", HashMode)
def test_buckets_fill_evenly(family: HashFamily, mode: HashMode) -> None:
    hashed = PacketHash(family, mode, seed=1, total_nodes=16)
    counts = [0] * 16
    for number in range(16_000):
        counts[
            hashed.bucket(PacketFields(IPv4Address(0x0A00_0000 + number), TCP, 1024 + number, 80))
            - 1
        ] += 1
    assert (
        850 < min(counts) <= max(counts) < 1150
    )  # 1,000 on average, and about five standard deviations either way
