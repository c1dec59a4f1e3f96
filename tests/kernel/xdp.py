"""What the tests of the XDP stage share.

A BPF file system of one's own, frames of every kind, and what the rules behind would do with them.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

import pytest

from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashFamily, HashMode, Service, Xdp
from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.dataplane.xdp import maps, pins
from maglev0.dataplane.xdp.build import compile_bpf
from maglev0.dataplane.xdp.libbpf import Bpf
from tests.bench import testrun
from tests.bench.generator import checksum
from tests.kernel.nft import hand_over
from tests.support.one_host import INTERFACE, environment, one_host

SERVICE = Service(
    IPv4Address("198.51.100.1"), INTERFACE, "03:bf:c6:33:64:01", 251, HashMode.SOURCE_IP, 7
)
SECOND = replace(SERVICE, vip=IPv4Address("198.51.100.2"), cluster_mac="03:bf:c6:33:64:02")
SOURCE = Path(pins.__file__).parent / "early.bpf.c"
LEASE_MS = 60_000
TCP, UDP, ICMP = 6, 17, 1
PROTOCOLS = (TCP, UDP, ICMP, 2, 4, 33, 41, 47, 50, 51, 132, 136, 0, 255)
ETHERTYPES = (b"\x08\x06", b"\x86\xdd", b"\x81\x00", b"\x88\xa8", b"\x88\x64", b"\x00\x26")
_ETHERNET, _IP = 14, 20
_ICMP_ERRORS = (3, 5, 11, 12)


@contextmanager
def alone() -> Iterator[Path]:
    """A host of one's own, for the calling thread, and its BPF file system, where the dataplane
    will look for it.
    """
    with one_host() as host:
        place = host.mount_bpf()
        with environment("MAGLEV0_BPFFS", str(place)):
            yield place


class Program:
    """The attached program, asked for its verdict on frames that never were on any wire."""

    def __init__(self, file_system: Path) -> None:
        self._bpf = Bpf()
        self._program = self._bpf.get(next(file_system.glob("maglev0/*_*")) / pins.PROGRAM)

    def drops(self, frame: bytes) -> bool:
        verdict = testrun.run(self._bpf, self._program, frame).verdict
        assert verdict in (testrun.DROP, testrun.PASS)
        return verdict == testrun.DROP

    def close(self) -> None:
        os.close(self._program)


class Rules(NamedTuple):
    """The early stage of nftables, as design and ruleset.py tell it, in user space.

    Slow, obvious, and nothing of it shared with the program.
    """

    service: Service
    admitted: frozenset[int]

    def drop(self, frame: bytes) -> bool:
        """Whether a frame is for the VIP and foreign.

        What the kernel would refuse as malformed before that counts as whatever it says.
        """
        packet = frame[_ETHERNET:]
        if (
            frame[12:14] != b"\x08\x00"
            or len(packet) < _IP
            or packet[16:20] != self.service.vip.packed
        ):
            return False
        protocol, offset = packet[9], (packet[0] & 0xF) * 4
        payload = packet[offset:]
        if int.from_bytes(packet[6:8], "big") & 0x3FFF:
            return False
        if protocol == ICMP and payload[:1] and payload[0] in _ICMP_ERRORS:
            return False
        ports = (
            struct.unpack("!HH", payload[:4])
            if protocol in (TCP, UDP) and len(payload) >= 4
            else (0, 0)
        )
        hashing = PacketHash(
            HashFamily.NFTABLES,
            self.service.hash_mode,
            self.service.hash_seed,
            self.service.total_nodes,
        )
        return (
            hashing.bucket(PacketFields(IPv4Address(packet[12:16]), protocol, *ports))
            not in self.admitted
        )

    def must_drop(self, frame: bytes) -> bool:
        """The same for a frame that nothing is wrong or odd with, which the program has to
        recognize: else it would be of no use.
        """
        packet = frame[_ETHERNET:]
        plain = (
            len(packet) >= _IP + 8
            and packet[0] == 0x45
            and int.from_bytes(packet[2:4], "big") == len(packet)
        )
        return plain and self.drop(frame)


def frame(rng: random.Random, vip: IPv4Address) -> bytes:
    """A random frame: most are for the VIP and well-formed up to one or two oddities, some are
    noise.
    """
    protocol = rng.choice(PROTOCOLS) if rng.random() < 0.9 else rng.randrange(256)
    payload = rng.randbytes(rng.choice((0, 1, 3, 4, 7, 8, 20, 64)))
    if protocol == ICMP and payload and rng.random() < 0.7:
        payload = bytes([rng.choice((*_ICMP_ERRORS, 0, 8))]) + payload[1:]
    words = 5 if rng.random() < 0.85 else rng.randrange(16)
    options = rng.randbytes(max(0, words - 5) * 4)
    fragment = rng.choice((0, 0x4000, 0x8000)) if rng.random() < 0.85 else rng.randrange(1 << 16)
    length = _IP + len(options) + len(payload) if rng.random() < 0.9 else rng.randrange(1 << 16)
    version = 4 if rng.random() < 0.97 else rng.randrange(16)
    dest = vip.packed if rng.random() < 0.95 else rng.randbytes(4)
    source = rng.randbytes(4)
    head = (
        struct.pack(
            "!BBHHHBBH4s4s",
            version << 4 | words,
            0,
            length,
            rng.randrange(1 << 16),
            fragment,
            64,
            protocol,
            0,
            source,
            dest,
        )
        + options
    )
    sound = checksum(head) if rng.random() < 0.95 else rng.randrange(1 << 16)
    return _wrapped(rng, head[:10] + sound.to_bytes(2, "big") + head[12:] + payload)


def _wrapped(rng: random.Random, packet: bytes) -> bytes:
    ethertype = b"\x08\x00" if rng.random() < 0.93 else rng.choice(ETHERTYPES)
    tag = b"\x81\x00\x00\x0a" if rng.random() < 0.03 else b""
    made = rng.randbytes(12) + tag + ethertype + packet
    if rng.random() < 0.1:
        made = made[: rng.randrange(_ETHERNET, len(made) + 1)]
    if rng.random() < 0.05:
        made += bytes(rng.randrange(1, 40))  # Ethernet pads short frames
    if rng.random() < 0.02:
        made = rng.randbytes(rng.randrange(_ETHERNET, 200))
    return made.ljust(_ETHERNET, b"\0")


@asynccontextmanager
async def opened(
    service: Service = SERVICE, xdp: Xdp = Xdp.NATIVE, owned: Iterable[int] = ()
) -> AsyncIterator[Nftables]:
    dataplane = Nftables(service, LEASE_MS, xdp=xdp)
    try:
        await dataplane.open()
        await hand_over(dataplane, owned)
        yield dataplane
    finally:
        await dataplane.close()


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def planted(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, instead: str) -> None:
    """From now on another program is loaded."""
    source = SOURCE.read_text()
    assert text in source
    (folder / "other.bpf.c").write_text(source.replace(text, instead))
    compile_bpf(folder / "other.bpf.c", folder / "other.bpf.o")
    monkeypatch.setattr(pins, "_OBJECT", folder / "other.bpf.o")


def ifindex() -> int:
    return socket.if_nametoindex(INTERFACE)


def attached() -> str:
    """How the interface's link says that a program is attached: xdp, xdpgeneric, or not at all."""
    words = run("ip", "link", "show", "dev", INTERFACE).split()
    return next((word for word in words if word.startswith("xdp")), "")


def places(file_system: Path) -> list[Path]:
    """Where programs of ours are pinned."""
    return list(file_system.glob("maglev0/*_*"))


def served(file_system: Path) -> set[bytes]:
    """The VIPs that the pinned program serves."""
    if not places(file_system):
        return set()
    (place,) = places(file_system)
    table = Bpf().get(place / "vips")
    try:
        return set(Bpf().keys(table, 4, maps.MAX_VIPS))
    finally:
        os.close(table)


def admitted(file_system: Path, slot: int = 0, buckets: int = SERVICE.total_nodes) -> set[int]:
    """The buckets whose bits are set."""
    library, (place,) = Bpf(), places(file_system)
    table = library.get(place / "admitted")
    try:
        words = [
            int.from_bytes(
                library.look_up(table, struct.pack("=I", slot * maps.WORDS + index), 8),
                sys.byteorder,
            )
            for index in range(-(-buckets // maps.WORD_BITS))
        ]
    finally:
        os.close(table)
    return {
        bucket
        for bucket in range(1, buckets + 1)
        if words[(bucket - 1) // 64] >> (bucket - 1) % 64 & 1
    }
