"""Builds and parses raw requests, which bypass the client's kernel.

Source addresses need no configuration, and no packet is repeated. Each answer identifies its
request: the request's number is the SYN's sequence number, or the payload of the datagram or ping,
and the answer returns it.

Pure: imports no I/O.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, NamedTuple

from maglev0.lab.testbed.addresses import node_of

if TYPE_CHECKING:
    from ipaddress import IPv4Address


class RequestKind(enum.IntEnum):
    """The kind of a request: the first three use fresh ports, the last two a fixed port."""

    SYN = 0
    UDP = 1
    PING = 2
    HELD_UDP = 3
    HELD_PING = 4


FRESH = (RequestKind.SYN, RequestKind.UDP, RequestKind.PING)
HELD = (RequestKind.HELD_UDP, RequestKind.HELD_PING)

_ICMP_NUMBER, _TCP_NUMBER, _UDP_NUMBER = 1, 6, 17
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_WINDOW = 64240
_ETHERNET, _IP = 14, 20
_NO_OPTIONS = 0x45
_HEADER = struct.Struct("!BBHHHBBH4s4s")
_TCP = struct.Struct("!HHIIBBHHH")
_UDP = struct.Struct("!HHHH")
_PING = struct.Struct("!BBHHHQ")
_TCP_ANSWER = struct.Struct("!HHIIBB")
_ECHO_REPLY, _ECHO_REQUEST, _UNREACHABLE = 0, 8, 3


class Reply(NamedTuple):
    """A node's packet from the VIP to a prober.

    `request` is the number of the answered request; `node` is 0 for an unknown MAC address.
    `refusal` marks a reset or an ICMP error. `reset` is the packet that clears a half-open
    connection, else None.
    """

    request: int
    node: int
    refusal: bool
    reset: bytes | None


class Segment(NamedTuple):
    """A node's packet from the VIP to a socket of the client's kernel."""

    client: bytes
    port: int
    node: int
    reset: bool


class Builder:
    """Builds requests to one VIP and port, and parses the answers."""

    def __init__(self, vip: IPv4Address, port: int) -> None:
        self._vip = vip.packed
        self._port = port

    def request(self, kind: RequestKind, source: bytes, port: int, number: int) -> bytes:
        """The IPv4 packet of a request.

        `source` is an address of 4 bytes; for a ping `port` is its identifier. The kernel fills in
        length and header checksum.
        """
        if kind is RequestKind.SYN:
            return self._tcp(source, port, number, _SYN)
        if kind in (RequestKind.UDP, RequestKind.HELD_UDP):
            payload = b"%d" % number
            # A checksum of 0 means none (RFC 768).
            return (
                self._ip(_UDP_NUMBER, source)
                + _UDP.pack(port, self._port, 8 + len(payload), 0)
                + payload
            )
        bare = _PING.pack(_ECHO_REQUEST, 0, 0, port, 1, number)
        return self._ip(_ICMP_NUMBER, source) + bare[:2] + _checksum(bare) + bare[4:]

    def _tcp(self, source: bytes, port: int, sequence: int, flags: int) -> bytes:
        bare = _TCP.pack(port, self._port, sequence, 0, 0x50, flags, _WINDOW, 0, 0)
        pseudo = source + self._vip + b"\0\x06\0\x14"
        return self._ip(_TCP_NUMBER, source) + bare[:16] + _checksum(pseudo + bare) + bare[18:]

    def _ip(self, protocol: int, source: bytes) -> bytes:
        return _HEADER.pack(_NO_OPTIONS, 0, 0, 0, 0, 64, protocol, 0, source, self._vip)

    def read(self, frame: bytes) -> Reply | Segment | None:
        """Parse an Ethernet frame from the VIP; None for a frame that answers no request."""
        protocol = (
            frame[23] if len(frame) >= _ETHERNET + _IP + 8 and frame[14] == _NO_OPTIONS else 0
        )
        if protocol == _TCP_NUMBER:
            return self._read_tcp(frame)
        if protocol == _UDP_NUMBER:
            return _numbered(frame[42:].split(b" ", 1)[0], frame, refusal=False)
        if protocol == _ICMP_NUMBER:
            return _read_icmp(frame)
        return None

    def _read_tcp(self, frame: bytes) -> Reply | Segment | None:
        if len(frame) < 48:
            return None
        _, port, _, acknowledged, _, flags = _TCP_ANSWER.unpack_from(frame, 34)
        client, node = frame[30:34], node_of(frame[6:12])
        if client[2] < 128:  # the lower half of 198.18.0.0/16 is the kernel's own
            return Segment(client, port, node, bool(flags & _RST))
        if not flags & _ACK:
            return None
        reset = self._tcp(client, port, acknowledged, _RST) if flags & _SYN else None
        return Reply(acknowledged - 1 & 0xFFFFFFFF, node, bool(flags & _RST), reset)


def _read_icmp(frame: bytes) -> Reply | None:
    kind = frame[34]
    if kind == _ECHO_REPLY and len(frame) >= 50:
        return Reply(int.from_bytes(frame[42:50]), node_of(frame[6:12]), refusal=False, reset=None)
    if kind != _UNREACHABLE or len(frame) < 70:
        return None
    quoted = frame[51]  # protocol of the packet that follows the ICMP header
    if quoted == _UDP_NUMBER:
        length = int.from_bytes(frame[66:68]) - 8
        return _numbered(frame[70 : 70 + length], frame, refusal=True)
    if quoted == _TCP_NUMBER:
        return Reply(int.from_bytes(frame[66:70]), node_of(frame[6:12]), refusal=True, reset=None)
    return None


def _numbered(digits: bytes, frame: bytes, *, refusal: bool) -> Reply | None:
    return (
        Reply(int(digits), node_of(frame[6:12]), refusal, reset=None) if digits.isdigit() else None
    )


def _checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    folded: int = ~(total + (total >> 16)) & 0xFFFF
    return folded.to_bytes(2)


def vip_filter(vip: IPv4Address, most_bytes: int) -> bytes:
    """A classic BPF program (linux/filter.h) for Ethernet frames with IPv4.

    It passes the first `most_bytes` bytes of frames from the VIP and drops all others.
    """
    load_source = (0x20, 0, 0, _ETHERNET + 12)
    equals_vip = (0x15, 0, 1, int(vip))
    accept, refuse = (0x06, 0, 0, most_bytes), (0x06, 0, 0, 0)
    return b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (load_source, equals_vip, accept, refuse)
    )
