"""The wire format of connection tracking's netlink messages: entries asked for, read, entered.

Pure: imports no I/O.

Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c;
net/netfilter/nf_conntrack_proto_tcp.c.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import NamedTuple, NewType

from maglev0.core.ip_family import IpFamily
from maglev0.dataplane.netlink.message import (
    ACK,
    CREATE,
    DUMP,
    FAMILY,
    HEADER,
    NESTED,
    REQUEST,
    attribute,
    attributes,
)

_NEW, _GET = 0x100, 0x101  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW, …_GET
_EXCLUSIVE = 0x200  # NLM_F_EXCL
_TCP_NUMBER = b"\6"
_LENGTH = struct.Struct("=I")  # what a message begins with
_ERROR = 2  # NLMSG_ERROR
_AF_INET = FAMILY.pack(IpFamily.V4.address_family, 0, 0)
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL_INFO, _TIMEOUT, _FILTER = 1, 2, 3, 4, 7, 25  # CTA_…
_IP, _PROTOCOL = 1, 2  # CTA_TUPLE_…
_SOURCE, _DEST = 1, 2  # CTA_IP_V4_…
_NUMBER, _SOURCE_PORT, _DEST_PORT = 1, 2, 3  # CTA_PROTO_…
_FILTER_PROTOCOL = 8  # CTA_FILTER_F_CTA_PROTO_NUM
_TCP_INFO, _TCP_STATE, _TCP_FLAGS = (
    1,
    1,
    (4, 5),
)  # CTA_PROTOINFO_TCP, …_STATE, …_FLAGS_ORIGINAL and …_REPLY
_SEEN_REPLY, _ASSURED, _CONFIRMED = 2, 4, 8  # IPS_…
# IP_CT_TCP_FLAG_SACK_PERM and …_BE_LIBERAL: the kernel sets both for connections that it meets in
# the middle.
_WINDOW_UNKNOWN = bytes((0x0A, 0x0A))


class TcpState(enum.IntEnum):
    """TCP_CONNTRACK_…: the state of a TCP connection, as far as connection tracking has seen it."""

    SYN_SENT = 1
    SYN_RECV = 2
    ESTABLISHED = 3
    FIN_WAIT = 4
    CLOSE_WAIT = 5
    LAST_ACK = 6
    TIME_WAIT = 7
    CLOSE = 8
    SYN_SENT2 = 9


# One TCP connection to the VIP as in its packets: the client's address, its port, and the VIP's
# port, in 4, 2 and 2 bytes. Bytes and no tuple: the garbage collector looks through tuples, and
# hundreds of thousands of them hold the loop up for 40 ms each time.
Connection = NewType("Connection", bytes)


class ConntrackEntry(NamedTuple):
    """A connection to be entered: its state, and for how many silent seconds it stays known."""

    vip: IPv4Address
    connection: Connection
    state: TcpState
    timeout_s: int


def dump() -> bytes:
    """Build a request for the entries of all TCP connections over IPv4.

    The kernel filters from Linux 5.8 on; before that it knows no filter, and answers with every
    entry of IPv4. It could filter by address, too. But while it passes over entries it handles no
    packets on that processor, for the whole table at once if nothing matches: 45 ms with 200,000
    entries and as many chains. When it fills datagrams it handles packets after 0.5 ms.
    """
    protocol = attribute(_PROTOCOL | NESTED, attribute(_NUMBER, _TCP_NUMBER))
    flags = attribute(1, struct.pack("=I", _FILTER_PROTOCOL))  # CTA_FILTER_ORIG_FLAGS
    return _message(
        _GET,
        REQUEST | DUMP,
        1,
        attribute(_ORIGINAL | NESTED, protocol) + attribute(_FILTER | NESTED, flags),
    )


def create(number: int, entry: ConntrackEntry) -> bytes:
    """Build a message that enters a connection.

    Refused with EEXIST when connection tracking knows the connection in either direction.
    """
    vip, connection = entry.vip.packed, entry.connection
    reply = _tuple(_REPLY, vip, connection[:4], connection[6:], connection[4:6])
    info = attribute(_TCP_STATE, bytes((entry.state,))) + b"".join(
        attribute(kind, _WINDOW_UNKNOWN) for kind in _TCP_FLAGS
    )
    protocol_info = attribute(_PROTOCOL_INFO | NESTED, attribute(_TCP_INFO | NESTED, info))
    return _message(
        _NEW,
        REQUEST | ACK | CREATE | _EXCLUSIVE,
        number,
        _original(entry) + reply + _seen(entry) + protocol_info,
    )


def look(number: int, entry: ConntrackEntry) -> bytes:
    """Build a request for a connection's entry in either direction.

    Refused with ENOENT when there is none.
    """
    return _message(_GET, REQUEST, number, _original(entry))


def confirm(number: int, entry: ConntrackEntry) -> bytes:
    """Build a message that says that both sides of a known connection have been heard.

    Refused with ENOENT when there is no entry, with EBUSY when it is being removed or belongs to
    another one, as an FTP transfer does.
    """
    return _message(_NEW, REQUEST | ACK, number, _original(entry) + _seen(entry))


def number_of(answer: bytes) -> int:
    """Return the number of the question that this answers."""
    number: int = HEADER.unpack_from(answer)[3]
    return number


def refusal(message: bytes) -> int:
    """Return the error number of an answer, 0 for an acknowledgement or an entry."""
    is_error = HEADER.unpack_from(message)[1] == _ERROR
    return -struct.unpack_from("=i", message, HEADER.size)[0] if is_error else 0


def replied(message: bytes) -> bool:
    """Whether connection tracking has seen both sides of an entry.

    Only then are its packets `established`.
    """
    status = dict(attributes(message[HEADER.size + FAMILY.size :])).get(_STATUS, bytes(4))
    return bool(int.from_bytes(status, "big") & _SEEN_REPLY)


def connections(messages: bytes, vip: IPv4Address) -> Iterator[tuple[Connection, int]]:
    """Yield the TCP connections to the VIP among dumped entries, each with its state.

    The VIP is an entry's destination, or its source if the first packet that connection tracking
    saw was one of ours. An entry without a state, if such a thing exists, counts as ESTABLISHED.
    """
    address = vip.packed
    offset = 0 if address in messages else len(messages)
    while offset < len(messages):
        end = offset + _LENGTH.unpack_from(messages, offset)[0]
        protocol, source, dest, source_port, dest_port = _original_of(messages, offset, end)
        if (
            protocol == _TCP_NUMBER and address in (dest, source) and source != dest
        ):  # the host's own connections to its VIP, as those of health checks
            client = (
                source + source_port + dest_port
                if dest == address
                else dest + dest_port + source_port
            )
            yield Connection(client), _state_of(messages, offset, end)
        offset = (end + 3) & ~3


def _original_of(
    messages: bytes, offset: int, end: int
) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Return an entry's protocol, addresses and ports, as they are in packets.

    It is fast when they are at the place where every kernel so far has put them.
    """
    if end - offset >= _ENTRY.size:
        head_1, source, head_2, dest, head_3, protocol, head_4, source_port, head_5, dest_port = (
            _ENTRY.unpack_from(messages, offset)
        )
        if (head_1, head_2, head_3, head_4, head_5) == _HEADS:
            return protocol, source, dest, source_port, dest_port
    entry = _nested(messages[offset + _BODY : end], _ORIGINAL)
    ip, ports = dict(attributes(_nested(entry, _IP))), dict(attributes(_nested(entry, _PROTOCOL)))
    return (
        ports.get(_NUMBER, b""),
        ip.get(_SOURCE, b""),
        ip.get(_DEST, b""),
        ports.get(_SOURCE_PORT, b""),
        ports.get(_DEST_PORT, b""),
    )


def _state_of(messages: bytes, offset: int, end: int) -> int:
    found = messages.find(_STATE_HEADS, offset, end)
    if found >= 0:
        return messages[found + len(_STATE_HEADS)]
    info = _nested(_nested(messages[offset + _BODY : end], _PROTOCOL_INFO), _TCP_INFO)
    return _nested(info, _TCP_STATE)[0] if info else TcpState.ESTABLISHED


def _nested(data: bytes, kind: int) -> bytes:
    return dict(attributes(data)).get(kind, b"")


def _heads(*heads: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("=HH", length, kind) for length, kind in heads)


_BODY = HEADER.size + FAMILY.size
# A message of an IPv4 entry of TCP: its header and family, then heads of attributes with their
# values in between.
_ENTRY = struct.Struct("=20x12s4s4s4s8sc3x4s2s2x4s2s2x")
_HEADS = (
    _heads((52, _ORIGINAL | NESTED), (20, _IP | NESTED), (8, _SOURCE)),
    _heads((8, _DEST)),
    _heads((28, _PROTOCOL | NESTED), (5, _NUMBER)),
    _heads((6, _SOURCE_PORT)),
    _heads((6, _DEST_PORT)),
)
# The bytes before the state of a TCP connection: twelve bytes that nothing else in an entry equals,
# but by a chance of 2^-96.
_STATE_HEADS = _heads((48, _PROTOCOL_INFO | NESTED), (44, _TCP_INFO | NESTED), (5, _TCP_STATE))


def _message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return (
        HEADER.pack(HEADER.size + FAMILY.size + len(body), kind, flags, sequence, 0)
        + _AF_INET
        + body
    )


def _original(entry: ConntrackEntry) -> bytes:
    connection = entry.connection
    return _tuple(_ORIGINAL, connection[:4], entry.vip.packed, connection[4:6], connection[6:])


def _tuple(kind: int, source: bytes, dest: bytes, source_port: bytes, dest_port: bytes) -> bytes:
    ip = attribute(_SOURCE, source) + attribute(_DEST, dest)
    protocol = (
        attribute(_NUMBER, _TCP_NUMBER)
        + attribute(_SOURCE_PORT, source_port)
        + attribute(_DEST_PORT, dest_port)
    )
    return attribute(
        kind | NESTED, attribute(_IP | NESTED, ip) + attribute(_PROTOCOL | NESTED, protocol)
    )


def _seen(entry: ConntrackEntry) -> bytes:
    # A connection whose third segment is still to come is not assured yet: others may push it out
    # of a full table.
    status = _CONFIRMED | _SEEN_REPLY | (0 if entry.state is TcpState.SYN_RECV else _ASSURED)
    return attribute(_STATUS, struct.pack("!I", status)) + attribute(
        _TIMEOUT, struct.pack("!I", entry.timeout_s)
    )
