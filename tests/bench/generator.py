"""The packet generator in the kernel.

Frames for one VIP, from many sources, put into a network device's receive path at the kernel's own
pace.

Source: Documentation/bpf/bpf_prog_run.rst of the kernel, "Running XDP programs in live frame mode".
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from maglev0.dataplane.xdp import pins
from maglev0.dataplane.xdp.build import compile_bpf
from maglev0.dataplane.xdp.libbpf import Bpf
from tests.bench import testrun

SOURCES = 16384
PORT = 7
FRAME_BYTES = 60
_SOURCE = Path(__file__).parent / "generator.bpf.c"
_NAME = "generator"
_MAPS = ("sources", "under_test", "verdict")
_FIRST = bytes(4)


def frame(vip: IPv4Address, mac: str) -> bytes:
    """A small UDP datagram for the VIP, as it arrives under the cluster MAC."""
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        FRAME_BYTES - 14,
        0,
        0,
        64,
        socket.IPPROTO_UDP,
        0,
        bytes(4),
        vip.packed,
    )
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    udp = struct.pack("!HHHH", 40000, PORT, FRAME_BYTES - 34, 0)
    # A bridge forwards nothing without a sender.
    sender = bytes.fromhex("024d47ff0001")
    return (bytes.fromhex(mac.replace(":", "")) + sender + b"\x08\x00" + head + udp).ljust(
        FRAME_BYTES, b"\0"
    )


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


class Generator:
    """The program, in the calling thread's network namespace.

    `place` is a new directory in a BPF file system, for its pins.
    """

    def __init__(self, place: Path, compiled: Path, packet: bytes, interface: str) -> None:
        place.mkdir()
        compile_bpf(_SOURCE, compiled)
        self._bpf = Bpf()
        self._bpf.install(compiled.read_bytes(), _NAME, _MAPS, place)
        self._program = self._bpf.get(place / _NAME)
        self._sources, self._under_test, self._verdict = (
            self._bpf.get(place / name) for name in _MAPS
        )
        self._frame = packet
        self._index = socket.if_nametoindex(interface)

    def send_from(self, sources: Sequence[IPv4Address]) -> None:
        """From now on packets come from these sources, as many as there can be, at random."""
        keys = struct.pack(f"={SOURCES}I", *range(SOURCES))
        self._bpf.put_all(
            self._sources, keys, b"".join(source.packed for source in sources), SOURCES
        )

    def through(self, place: Path) -> None:
        """From now on let packets pass our XDP program that is pinned there before they go on."""
        program = self._bpf.get(place / pins.PROGRAM)
        self._bpf.put(self._under_test, _FIRST, struct.pack("=I", program))
        os.close(program)

    def ns_per_packet(self, count: int, *, into_stack: bool = True) -> float:
        """Send so many packets, into the stack or nowhere; the kernel's own time for each."""
        self._bpf.put(
            self._verdict, _FIRST, struct.pack("=I", testrun.PASS if into_stack else testrun.DROP)
        )
        return float(
            testrun.run(
                self._bpf, self._program, self._frame, repeat=count, live_on=self._index
            ).duration_ns
        )

    def close(self) -> None:
        """Let go of everything."""
        for descriptor in (self._program, self._sources, self._under_test, self._verdict):
            os.close(descriptor)
