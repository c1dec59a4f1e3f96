"""Counts every answer on the client's wire with an AF_PACKET socket (packet(7)).

A TCP socket would hide a second SYN-ACK.
"""

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
# Only headers are read. The kernel charges about 1 KiB for a small frame: the buffer holds 8,000.
_SNAP_BYTES = 160
_BUFFER_BYTES = 8 << 20
# A limit, so that a flood of frames cannot block the event loop.
_FRAMES_AT_ONCE = 256


class Answers:
    """The answers to one request so far.

    `first_s` is the arrival of the first one that is no refusal, in CLOCK_MONOTONIC.
    """

    def __init__(self) -> None:
        self.macs: list[str] = []
        self.first_s: float | None = None
        self.served = asyncio.Event()


class Sniffer:
    """Receives frames from the VIP and counts the answers to the requests given to `expect`.

    Needs a running loop. Leaving the context raises LabError if the kernel dropped frames, because
    the counts are then wrong.
    """

    def __init__(self, interface: str, vip: IPv4Address) -> None:
        self._vip = vip.packed
        self._flows: dict[RequestFlow, Answers] = {}
        # SOCK_DGRAM takes the Ethernet header off; the sender's MAC comes with the address.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.bind((interface, _ETH_P_IP))

    def expect(self, flow: RequestFlow) -> Answers:
        """Count the answers to a request from now on; a later equal flow replaces it."""
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
                f"counting answers: the kernel dropped {dropped} frames before the client read"
                " them; probe at a lower rate"
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
