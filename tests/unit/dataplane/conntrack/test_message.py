"""The wire formats of connection tracking and of sock_diag, as far as no kernel is needed."""

from __future__ import annotations

import errno
import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.dataplane.conntrack import message as ctmessage
from maglev0.dataplane.conntrack import sockdiag
from maglev0.dataplane.conntrack.message import Connection, ConntrackEntry, TcpState
from maglev0.dataplane.conntrack.sockdiag import SocketState
from maglev0.dataplane.netlink.message import FAMILY, HEADER, attribute, attributes

VIP = IPv4Address("198.51.100.1")
OTHER = IPv4Address("198.51.100.2")
CLIENT = bytes((203, 0, 113, 9))
PORTS = struct.pack("!HH", 40_000, 80)
CONNECTION = Connection(CLIENT + PORTS)
TCP, UDP, ICMP = 6, 17, 1
NESTED = 0x8000

connections = st.builds(
    lambda client, ports: Connection(client + ports),
    st.binary(min_size=4, max_size=4),
    st.binary(min_size=4, max_size=4),
)
entries = st.builds(
    ConntrackEntry, st.just(VIP), connections, st.sampled_from(TcpState), st.integers(0, 1 << 31)
)


def message(*attributes: bytes) -> bytes:
    body = FAMILY.pack(2, 0, 0) + b"".join(attributes)
    return HEADER.pack(HEADER.size + len(body), 0x100, 0, 0, 0) + body


def direction(source: bytes, dest: bytes, protocol: int, *details: bytes) -> bytes:
    """The attribute of an original direction, with its parts in another order than the kernel's."""
    ip = attribute(2, dest) + attribute(1, source)
    return attribute(
        1, attribute(2, b"".join(details) + attribute(1, bytes((protocol,)))) + attribute(1, ip)
    )


def as_the_kernel_tells(entry: ConntrackEntry, *more: bytes) -> bytes:
    """A dumped entry, its parts in the kernel's order, with `more` at its end."""
    client, client_port, port = entry.connection[:4], entry.connection[4:6], entry.connection[6:]
    ways = (
        (1, client, entry.vip.packed, client_port, port),
        (2, entry.vip.packed, client, port, client_port),
    )
    directions = [
        attribute(
            kind | NESTED,
            attribute(1 | NESTED, attribute(1, source) + attribute(2, dest))
            + attribute(
                2 | NESTED,
                attribute(1, bytes((TCP,))) + attribute(2, source_port) + attribute(3, dest_port),
            ),
        )
        for kind, source, dest, source_port, dest_port in ways
    ]
    scales_and_flags = (
        attribute(2, b"\7")
        + attribute(3, b"\7")
        + attribute(4, b"\x23\0")
        + attribute(5, b"\x23\0")
    )
    info = attribute(
        4 | NESTED, attribute(1 | NESTED, attribute(1, bytes((entry.state,))) + scales_and_flags)
    )
    return message(
        *directions,
        attribute(3, struct.pack("!I", 0xE)),
        attribute(7, struct.pack("!I", entry.timeout_s)),
        info,
        *more,
    )


def port_details(source_port: int, dest_port: int) -> tuple[bytes, bytes]:
    return attribute(3, struct.pack("!H", dest_port)), attribute(2, struct.pack("!H", source_port))


# Entries that are read.


@given(st.lists(entries, max_size=5))
def test_each_entry_is_read_with_its_state(written: list[ConntrackEntry]) -> None:
    expected = [(entry.connection, entry.state) for entry in written]
    assert list(ctmessage.connections(b"".join(map(as_the_kernel_tells, written)), VIP)) == expected
    assert (
        list(
            ctmessage.connections(
                b"".join(as_the_kernel_tells(entry, attribute(8, bytes(4))) for entry in written),
                VIP,
            )
        )
        == expected
    )
    # Laid out otherwise: what we enter ourselves tells no window scales.
    assert (
        list(ctmessage.connections(b"".join(ctmessage.create(0, entry) for entry in written), VIP))
        == expected
    )


@given(st.lists(entries, min_size=1, max_size=5))
def test_connections_to_other_addresses_are_left_out(written: list[ConntrackEntry]) -> None:
    last = ConntrackEntry(VIP, CONNECTION, TcpState.CLOSE, 1)
    dumped = b"".join(
        as_the_kernel_tells(entry)
        for entry in [*(entry._replace(vip=OTHER) for entry in written), last]
    )
    assert list(ctmessage.connections(dumped, VIP)) == [(CONNECTION, TcpState.CLOSE)]


def test_parts_in_any_order_are_found() -> None:
    dumped = message(
        attribute(3, bytes(4)), direction(CLIENT, VIP.packed, TCP, *port_details(40_000, 80))
    )
    assert list(ctmessage.connections(dumped, VIP)) == [(CONNECTION, TcpState.ESTABLISHED)]


def test_a_connection_that_was_first_seen_by_a_packet_of_ours_is_the_same_connection() -> None:
    dumped = message(direction(VIP.packed, CLIENT, TCP, *port_details(80, 40_000)))
    assert list(ctmessage.connections(dumped, VIP)) == [(CONNECTION, TcpState.ESTABLISHED)]


@pytest.mark.parametrize(
    "attributes",
    [
        (direction(CLIENT, VIP.packed, UDP, *port_details(40_000, 80)),),
        (
            direction(
                CLIENT,
                VIP.packed,
                ICMP,
                attribute(4, b"\0\1"),
                attribute(5, b"\x08"),
                attribute(6, b"\0"),
            ),
        ),
        (attribute(7, VIP.packed),),
        (attribute(200, VIP.packed + bytes(60)),),
    ],
    ids=["UDP", "ping", "no direction", "nothing known"],
)
def test_what_is_no_tcp_connection_is_left_out(attributes: tuple[bytes, ...]) -> None:
    assert list(ctmessage.connections(message(*attributes), VIP)) == []


# Entries that are made.


def test_looking_names_the_connection_alone_and_confirming_says_what_was_not_seen() -> None:
    entry = ConntrackEntry(VIP, CONNECTION, TcpState.ESTABLISHED, 432_000)
    looked, confirmed = (
        question(5, entry)[HEADER.size + FAMILY.size :]
        for question in (ctmessage.look, ctmessage.confirm)
    )
    assert [kind for kind, _value in attributes(looked)] == [1]
    assert confirmed == looked + attribute(3, struct.pack("!I", 0xE)) + attribute(
        7, struct.pack("!I", 432_000)
    )


def test_requests_are_of_the_length_that_they_tell() -> None:
    for request in (ctmessage.dump(), sockdiag.dump(VIP, sockdiag.AF_INET6)):
        assert HEADER.unpack_from(request)[0] == len(request)


# Answers.


@pytest.mark.parametrize("code", [0, errno.EEXIST])
def test_an_answer_tells_its_number_and_its_code(code: int) -> None:
    answer = HEADER.pack(36, 2, 0, 17, 0) + struct.pack("=i", -code) + bytes(16)
    assert (ctmessage.number_of(answer), ctmessage.refusal(answer)) == (17, code)


def test_an_entry_is_an_answer_that_refuses_nothing() -> None:
    assert (
        ctmessage.refusal(
            ctmessage.create(3, ConntrackEntry(VIP, CONNECTION, TcpState.ESTABLISHED, 1))
        )
        == 0
    )


@pytest.mark.parametrize(("status", "both"), [(0x8, False), (0xA, True), (0xE, True), (0xC, False)])
def test_the_status_tells_whether_both_sides_were_heard(status: int, both: bool) -> None:
    assert ctmessage.replied(message(attribute(3, struct.pack("!I", status)))) is both
    assert not ctmessage.replied(message())


# Sockets.


def answer(family: int, state: int, remote: bytes) -> bytes:
    local = VIP.packed if family == sockdiag.AF_INET else bytes(10) + b"\xff\xff" + VIP.packed
    body = (
        struct.pack("=BBBB", family, state, 0, 0)
        + struct.pack("!HH", 80, 40_000)
        + local.ljust(16, b"\0")
        + remote.ljust(16, b"\0")
        + bytes(32)
    )
    return HEADER.pack(HEADER.size + len(body), 20, 0, 0, 0) + body


@given(st.lists(st.sampled_from(SocketState), max_size=4))
def test_sockets_of_both_families_are_connections_over_ipv4(states: list[SocketState]) -> None:
    mapped = bytes(10) + b"\xff\xff" + CLIENT
    dumped = b"".join(
        answer(sockdiag.AF_INET, state, CLIENT) + answer(sockdiag.AF_INET6, state, mapped)
        for state in states
    )
    assert list(sockdiag.connections(dumped)) == [
        (CONNECTION, state) for state in states for _family in range(2)
    ]
