"""Counts every answer on the client's wire: TCP hides a second SYN-ACK from its user, an AF_PACKET socket does not (packet(7))."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import TYPE_CHECKING, Self

from maglev0.lab.errors import LabError
from maglev0.lab.traffic import frames

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from maglev0.lab.traffic.frames import RequestFlow

# From <linux/if_packet.h> and <asm-generic/socket.h>; Python's socket module lacks them.
_SOL_PACKET, _PACKET_STATISTICS, _SO_RCVBUFFORCE = 263, 6, 33
_ETH_P_IP = 0x0800
# Headers are all that is read; the kernel charges a small frame with about 1 KiB, so this holds 8,000 of them.
_SNAP_BYTES = 160
_BUFFER_BYTES = 8 << 20
# So that a flood of frames cannot keep the loop from everything else.
_FRAMES_AT_ONCE = 256


class Answers:
    """The answers to one request so far; `first_s` is when the first came that is no refusal, in CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self.macs: list[str] = []
        self.first_s: float | None = None
        self.served = asyncio.Event()


class Sniffer:
    """Hears what comes from the VIP; `expect` says which request to count the answers of.

    Needs a running loop. Leaving the context raises LabError if the kernel had to drop frames: the counts would be worth nothing.
    """

    def __init__(self, interface: str, vip: IPv4Address) -> None:
        self._vip = vip.packed
        self._flows: dict[RequestFlow, Answers] = {}
        # SOCK_DGRAM takes the Ethernet header off; the sender's MAC comes with the address.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.bind((interface, _ETH_P_IP))

    def expect(self, flow: RequestFlow) -> Answers:
        """Count the answers to a request from now on; a later request with the same flow takes its place."""
        answers = Answers()
        self._flows[flow] = answers
        return answers

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._socket, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        _, dropped = struct.unpack(
            "II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        )
        self._socket.close()
        if dropped:
            raise LabError(
                f"counting answers: the kernel dropped {dropped} frames before they were read; probe at a lower rate"
            )

    def _hear(self) -> None:
        for _ in range(_FRAMES_AT_ONCE):
            try:
                packet, (_, _, kind, _, mac) = self._socket.recvfrom(_SNAP_BYTES)
            except BlockingIOError:
                return
            if kind != socket.PACKET_OUTGOING:
                self._count(packet, mac)

    def _count(self, packet: bytes, mac: bytes) -> None:
        answer = frames.parse(packet, self._vip)
        answers = None if answer is None else self._flows.get(answer.flow)
        if answer is None or answers is None:
            return
        answers.macs.append(mac.hex(":"))
        if not answer.refusal and answers.first_s is None:
            answers.first_s = time.monotonic()
            answers.served.set()
