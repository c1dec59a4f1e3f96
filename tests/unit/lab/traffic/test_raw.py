from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.lab.testbed.addresses import client_address, node_mac, node_of, prober_address
from maglev0.lab.traffic.raw import Builder, Reply, RequestKind, Segment, vip_filter

VIP = IPv4Address("198.51.100.1")
PROBER, CLIENT = prober_address(7).packed, client_address(7).packed
BUILDER = Builder(VIP, 8000)
MAC = bytes.fromhex(node_mac(3).replace(":", ""))
SYN_ACK, RST_ACK, ACK, RST = 0x12, 0x14, 0x10, 0x04


def frame(
    protocol: int, payload: bytes, destination: bytes = PROBER, mac: bytes = MAC, first: int = 0x45
) -> bytes:
    header = (
        struct.pack("!BBHHHBBH", first, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
        + VIP.packed
        + destination
    )
    return bytes(6) + mac + b"\x08\x00" + header + payload


def tcp(flags: int, acknowledged: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 8000, 20000, 99, acknowledged, 0x50, flags, 0, 0, 0)


def sums_to_nothing(data: bytes) -> bool:
    """Whether the Internet checksum is valid (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


@given(st.integers(0, 2**32 - 1), st.integers(1, 65535))
def test_a_syn_has_its_number_as_sequence_and_a_valid_checksum(number: int, port: int) -> None:
    packet = BUILDER.request(RequestKind.SYN, PROBER, port, number)
    assert packet[12:20] == PROBER + VIP.packed
    assert struct.unpack_from("!HHI", packet, 20) == (port, 8000, number)
    assert packet[33] == 0x02
    assert sums_to_nothing(PROBER + VIP.packed + b"\0\x06\0\x14" + packet[20:])


@given(st.integers(0, 2**32 - 1), st.sampled_from([RequestKind.PING, RequestKind.HELD_PING]))
def test_a_ping_reply_returns_the_request_number(number: int, kind: RequestKind) -> None:
    packet = BUILDER.request(kind, PROBER, 77, number)
    assert sums_to_nothing(packet[20:])
    reply = frame(socket.IPPROTO_ICMP, b"\0" + packet[21:])
    assert BUILDER.read(reply) == Reply(number, 3, refusal=False, reset=None)


@given(st.integers(0, 2**32 - 1), st.sampled_from([RequestKind.UDP, RequestKind.HELD_UDP]))
def test_a_datagram_reply_returns_the_request_number(number: int, kind: RequestKind) -> None:
    packet = BUILDER.request(kind, PROBER, 77, number)
    answer = struct.pack("!HHHH", 8000, 77, 0, 0) + packet[28:] + b" backend-3\n"
    assert BUILDER.read(frame(socket.IPPROTO_UDP, answer)) == Reply(
        number, 3, refusal=False, reset=None
    )


def test_a_syn_ack_gets_a_reset_that_its_sender_accepts() -> None:
    reply = BUILDER.read(frame(socket.IPPROTO_TCP, tcp(SYN_ACK, 43)))
    assert isinstance(reply, Reply)
    assert reply[:3] == (42, 3, False)
    assert reply.reset is not None
    assert struct.unpack_from("!HHI", reply.reset, 20) == (20000, 8000, 43)
    assert reply.reset[33] == RST


def test_request_numbers_wrap_around() -> None:
    assert BUILDER.read(frame(socket.IPPROTO_TCP, tcp(RST_ACK, 0))) == Reply(
        0xFFFFFFFF, 3, refusal=True, reset=None
    )


def test_a_reset_is_a_refusal() -> None:
    assert BUILDER.read(frame(socket.IPPROTO_TCP, tcp(RST_ACK, 43))) == Reply(
        42, 3, refusal=True, reset=None
    )


def test_packets_for_the_client_kernel_are_segments() -> None:
    assert BUILDER.read(frame(socket.IPPROTO_TCP, tcp(ACK, 43), CLIENT)) == Segment(
        CLIENT, 20000, 3, reset=False
    )
    assert BUILDER.read(frame(socket.IPPROTO_TCP, tcp(RST, 43), CLIENT)) == Segment(
        CLIENT, 20000, 3, reset=True
    )


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [(RequestKind.UDP, socket.IPPROTO_UDP), (RequestKind.SYN, socket.IPPROTO_TCP)],
)
def test_an_icmp_error_refuses_the_quoted_request(kind: RequestKind, protocol: int) -> None:
    quoted = bytearray(BUILDER.request(kind, PROBER, 20000, 4711))
    if protocol == socket.IPPROTO_UDP:
        quoted += b"trailer that is not part of the datagram"
    answer = struct.pack("!BBHI", 3, 3, 0, 0) + bytes(quoted)
    assert BUILDER.read(frame(socket.IPPROTO_ICMP, answer)) == Reply(
        4711, 3, refusal=True, reset=None
    )


@pytest.mark.parametrize(
    "other",
    [
        b"",
        frame(socket.IPPROTO_TCP, tcp(SYN_ACK, 43), first=0x46),
        frame(socket.IPPROTO_TCP, tcp(SYN_ACK, 43)[:12]),
        frame(socket.IPPROTO_TCP, tcp(RST, 43)),
        frame(socket.IPPROTO_UDP, bytes(8) + b"who? backend-3"),
        frame(50, bytes(20)),
        frame(socket.IPPROTO_ICMP, struct.pack("!BBHI", 0, 0, 0, 0)),
        frame(socket.IPPROTO_ICMP, struct.pack("!BBHI", 3, 3, 0, 0) + bytes(20)),
        frame(
            socket.IPPROTO_ICMP,
            struct.pack("!BBHI", 11, 0, 0, 0) + BUILDER.request(RequestKind.UDP, PROBER, 1, 1),
        ),
        frame(
            socket.IPPROTO_ICMP,
            struct.pack("!BBHI", 3, 3, 0, 0) + BUILDER.request(RequestKind.PING, PROBER, 1, 1),
        ),
    ],
)
def test_other_frames_are_no_answer(other: bytes) -> None:
    assert BUILDER.read(other) is None


def test_an_unknown_mac_is_node_0() -> None:
    assert node_of(bytes.fromhex("02aa00000003")) == 0
    assert node_of(MAC) == 3


def test_the_filter_compares_the_source_of_an_ethernet_frame() -> None:
    program = vip_filter(VIP, 100)
    assert [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)] == [
        (0x20, 0, 0, 26),
        (0x15, 0, 1, int(VIP)),
        (0x06, 0, 0, 100),
        (0x06, 0, 0, 0),
    ]
