from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.lab.traffic.frames import Answer, RequestFlow, echo_request, parse

VIP = IPv4Address("198.51.100.1").packed
CLIENT = IPv4Address("198.18.100.9")
ICMP, TCP, UDP, ESP = 1, 6, 17, 50
SYN_ACK, RST = 0x12, 0x04


def packet(
    protocol: int,
    payload: bytes,
    *,
    source: bytes = VIP,
    destination: bytes = CLIENT.packed,
    options: bytes = b"",
    fragment: int = 0,
) -> bytes:
    length = (20 + len(options)) // 4
    header = struct.pack("!BBHHHBBH", 0x40 | length, 0, 0, 0, fragment, 64, protocol, 0)
    return header + source + destination + options + payload


def tcp(flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 8000, 41000, 1, 1, 0x50, flags, 0, 0, 0)


def udp(source_port: int, destination_port: int) -> bytes:
    return struct.pack("!HHHH", source_port, destination_port, 8, 0)


def test_a_syn_ack_answers_the_port_it_goes_to() -> None:
    assert parse(packet(TCP, tcp(SYN_ACK)), VIP) == Answer(
        RequestFlow("tcp", str(CLIENT), 41000), refusal=False
    )


def test_a_reset_is_a_refusal() -> None:
    assert parse(packet(TCP, tcp(RST)), VIP) == Answer(
        RequestFlow("tcp", str(CLIENT), 41000), refusal=True
    )


def test_ip_options_are_skipped() -> None:
    assert parse(packet(UDP, udp(8000, 41001), options=bytes(8)), VIP) == Answer(
        RequestFlow("udp", str(CLIENT), 41001), refusal=False
    )


def test_an_echo_reply_answers_its_identifier() -> None:
    assert parse(packet(ICMP, struct.pack("!BBHHH", 0, 0, 0, 77, 1)), VIP) == Answer(
        RequestFlow("ping", str(CLIENT), 77), refusal=False
    )


@pytest.mark.parametrize(
    ("refused", "flow"),
    [
        (
            packet(UDP, udp(41002, 8000), source=CLIENT.packed, destination=VIP),
            RequestFlow("udp", str(CLIENT), 41002),
        ),
        (
            packet(TCP, struct.pack("!HHI", 41003, 8000, 1), source=CLIENT.packed, destination=VIP),
            RequestFlow("tcp", str(CLIENT), 41003),
        ),
        (
            packet(ICMP, echo_request(78), source=CLIENT.packed, destination=VIP),
            RequestFlow("ping", str(CLIENT), 78),
        ),
    ],
)
def test_unreachable_refuses_the_request_it_quotes(refused: bytes, flow: RequestFlow) -> None:
    assert parse(packet(ICMP, struct.pack("!BBHI", 3, 3, 0, 0) + refused), VIP) == Answer(
        flow, refusal=True
    )


@pytest.mark.parametrize(
    "other",
    [
        packet(TCP, tcp(SYN_ACK), source=CLIENT.packed),
        packet(ESP, bytes(20)),
        packet(UDP, udp(8000, 41000), fragment=100),
        packet(UDP, b"short"),
        packet(TCP, tcp(SYN_ACK)[:13]),
        packet(ICMP, struct.pack("!BBHHH", 11, 0, 0, 0, 0)),
        packet(ICMP, struct.pack("!BBHI", 3, 3, 0, 0) + packet(ESP, bytes(20))),
        b"\x60" + bytes(60),
        b"",
    ],
    ids=[
        "not from the VIP",
        "unknown protocol",
        "later fragment",
        "cut UDP",
        "cut TCP",
        "other ICMP",
        "other quoted",
        "IPv6",
        "empty",
    ],
)
def test_other_packets_are_no_answer(other: bytes) -> None:
    assert parse(other, VIP) is None


@given(st.binary(max_size=120))
def test_no_packet_breaks_the_parser(tail: bytes) -> None:
    for protocol in (ICMP, TCP, UDP):
        answer = parse(packet(protocol, tail), VIP)
        assert answer is None or 0 <= answer.flow.port <= 0xFFFF


@given(st.integers(0, 0xFFFF))
def test_the_checksum_of_an_echo_request_is_valid(identifier: int) -> None:
    total = sum(struct.unpack("!4H", echo_request(identifier)))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
