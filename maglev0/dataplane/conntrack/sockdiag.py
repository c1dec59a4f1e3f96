"""The wire format of sock_diag's netlink messages, for the TCP sockets of one address.

Pure: imports no I/O.

Sources: sock_diag(7); include/uapi/linux/inet_diag.h; net/ipv4/inet_diag.c.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

from maglev0.core.ip_family import IpFamily
from maglev0.dataplane.conntrack.message import Connection
from maglev0.dataplane.netlink.message import DUMP, HEADER, REQUEST, attribute

AF_INET, AF_INET6 = IpFamily.V4.address_family, IpFamily.V6.address_family

_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_TCP = 6
_REQUEST = struct.Struct(
    "=BBBxI48x"
)  # struct inet_diag_req_v2: family, protocol, extensions, states, struct inet_diag_sockid
_ANSWER = struct.Struct(
    "=BB2x2s2s16s16s"
)  # struct inet_diag_msg: family, state, timer and retransmissions, then ports and addresses
_OPERATION = struct.Struct(
    "=BBH"
)  # struct inet_diag_bc_op: code, how far to go on a match, and how far when there is none
_CONDITION = struct.Struct(
    "=BBxxi4s"
)  # struct inet_diag_hostcond: family, prefix length, port, address
_SOURCE_CONDITION = 7  # INET_DIAG_BC_S_COND
_ANY_PORT = -1


class SocketState(enum.IntEnum):
    """TCP_… of include/net/tcp_states.h: states in which either side may still send."""

    ESTABLISHED = 1
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    CLOSE_WAIT = 8
    LAST_ACK = 9
    CLOSING = 11


def dump(vip: IPv4Address, family: int) -> bytes:
    """Build a request for the connections of sockets of one family that are bound to the VIP.

    A service on :: has sockets of the family AF_INET6.
    """
    states = sum(1 << state for state in SocketState)
    length = _OPERATION.size + _CONDITION.size
    # A condition that is not met leads past the last operation, which leaves the socket out. It
    # finds IPv4 addresses in IPv6 ones, too.
    filtering = _OPERATION.pack(_SOURCE_CONDITION, length, length + 4) + _CONDITION.pack(
        AF_INET, IpFamily.V4.bits, _ANY_PORT, vip.packed
    )
    body = _REQUEST.pack(family, _TCP, 0, states) + attribute(
        1, filtering
    )  # INET_DIAG_REQ_BYTECODE
    return HEADER.pack(HEADER.size + len(body), _BY_FAMILY, REQUEST | DUMP, 1, 0) + body


def connections(messages: bytes) -> Iterator[tuple[Connection, SocketState]]:
    """Yield each socket's connection and state."""
    offset = 0
    while offset < len(messages):
        length = HEADER.unpack_from(messages, offset)[0]
        family, state, port, client_port, _local, remote = _ANSWER.unpack_from(
            messages, offset + HEADER.size
        )
        client = remote[12:] if family == AF_INET6 else remote[:4]
        yield Connection(client + client_port + port), SocketState(state)
        offset += (length + 3) & ~3
