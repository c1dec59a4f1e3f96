"""Parses packets on the client's wire: finds the request that a packet answers.

Pure: imports no I/O.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import NamedTuple

_PROTOCOLS = {1: "ping", 6: "tcp", 17: "udp"}
_NUMBERS = {name: number for number, name in _PROTOCOLS.items()}
_HEADER_BYTES, _QUOTED_BYTES, _TCP_FLAGS_BYTES = 20, 8, 14
_FRAGMENT_OFFSET = 0x1FFF
_ECHO_REPLY, _ECHO_REQUEST, _UNREACHABLE = 0, 8, 3
_RST = 0x04


class RequestFlow(NamedTuple):
    """One request of the client: protocol, client address, and client port.

    `protocol` is 'tcp', 'udp' or 'ping'; for a ping, `port` is its identifier.
    """

    protocol: str
    client: str
    port: int


class Answer(NamedTuple):
    """A packet that answers a request.

    `refusal` marks a reset or an ICMP error, from a node that accepted the request but does not
    serve it.
    """

    flow: RequestFlow
    refusal: bool


def parse(packet: bytes, source: bytes) -> Answer | None:
    """The request that an IPv4 packet from the address `source` (4 bytes) answers.

    Returns None for every other packet, and for all fragments but the first.
    """
    header = _Header.of(packet)
    if header is None or header.source != source or header.protocol not in _PROTOCOLS:
        return None
    if header.protocol == _NUMBERS["ping"]:
        return _parse_icmp(packet, header)
    if header.protocol == _NUMBERS["tcp"]:
        return _parse_tcp(packet, header)
    return Answer(
        _flow(header.protocol, header.destination, _second_port(packet, header)), refusal=False
    )


def _parse_tcp(packet: bytes, header: _Header) -> Answer | None:
    if len(packet) < header.length + _TCP_FLAGS_BYTES:
        return None
    refusal = bool(packet[header.length + _TCP_FLAGS_BYTES - 1] & _RST)
    return Answer(_flow(header.protocol, header.destination, _second_port(packet, header)), refusal)


def _parse_icmp(packet: bytes, header: _Header) -> Answer | None:
    kind = packet[header.length]
    if kind == _ECHO_REPLY:
        return Answer(
            _flow(
                header.protocol,
                header.destination,
                struct.unpack_from("!H", packet, header.length + 4)[0],
            ),
            refusal=False,
        )
    refused = packet[header.length + 8 :]
    inner = _Header.of(refused) if kind == _UNREACHABLE else None
    if inner is None or inner.protocol not in _PROTOCOLS:
        return None
    offset = inner.length + (4 if inner.protocol == _NUMBERS["ping"] else 0)
    return Answer(
        _flow(inner.protocol, inner.source, struct.unpack_from("!H", refused, offset)[0]),
        refusal=True,
    )


def _second_port(packet: bytes, header: _Header) -> int:
    port: int = struct.unpack_from("!H", packet, header.length + 2)[0]
    return port


def _flow(protocol: int, client: bytes, port: int) -> RequestFlow:
    return RequestFlow(_PROTOCOLS[protocol], str(IPv4Address(client)), port)


class _Header(NamedTuple):
    length: int
    protocol: int
    source: bytes
    destination: bytes

    @classmethod
    def of(cls, packet: bytes) -> _Header | None:
        """The IPv4 header of a first fragment; None for other data.

        At least 8 bytes must follow the header: ICMP errors quote so many (RFC 792).
        """
        if len(packet) < _HEADER_BYTES or packet[0] >> 4 != 4:
            return None
        length = 4 * (packet[0] & 0xF)
        if (
            len(packet) < length + _QUOTED_BYTES
            or struct.unpack_from("!H", packet, 6)[0] & _FRAGMENT_OFFSET
        ):
            return None
        return cls(length, packet[9], packet[12:16], packet[16:20])


def echo_request(identifier: int) -> bytes:
    """An ICMP echo request with this identifier and a valid checksum (RFC 792)."""
    bare = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, identifier, 1)
    total = sum(struct.unpack("!4H", bare))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", _ECHO_REQUEST, 0, ~total & 0xFFFF, identifier, 1)
