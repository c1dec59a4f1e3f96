"""Looks up one TCP connection to a VIP in connection tracking."""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import IPv4Address

from maglev0.core.packet_hash import PacketFields
from maglev0.dataplane.conntrack import message as ctmessage
from maglev0.dataplane.conntrack.message import Connection, ConntrackEntry, TcpState
from maglev0.dataplane.netlink.message import FAMILY, HEADER, NETLINK_NETFILTER, attributes
from maglev0.dataplane.verdict import Tracked
from maglev0.errors import DataplaneError

_ORIGINAL, _STATUS, _IP, _SOURCE = (
    1,
    3,
    1,
    1,
)  # CTA_TUPLE_ORIG, CTA_STATUS; CTA_TUPLE_IP; CTA_IP_V4_SRC
_EXPECTED = 1  # IPS_EXPECTED: a helper waited for it, as for an FTP transfer
_RECEIVE = 1 << 15
_TIMEOUT_S = 2.0  # the answer is there when the question has been sent


def look_up(vip: IPv4Address, flow: PacketFields) -> Tracked | None:
    """Return what connection tracking knows of exactly this connection; None if nothing.

    It asks in the network namespace of the calling thread. Raises `DataplaneError`.
    """
    connection = Connection(
        flow.source.packed + struct.pack("!HH", flow.source_port, flow.dest_port)
    )
    try:
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
        ) as kernel:
            kernel.settimeout(_TIMEOUT_S)
            kernel.send(ctmessage.look(1, ConntrackEntry(vip, connection, TcpState.ESTABLISHED, 0)))
            answer = kernel.recv(_RECEIVE)
    except OSError as error:
        raise DataplaneError(
            f"asking connection tracking: {(error.strerror or str(error)).lower()}"
        ) from error
    refusal = ctmessage.refusal(answer)
    if refusal == errno.ENOENT:
        return None
    if refusal:
        raise DataplaneError(
            f"asking connection tracking: {os.strerror(refusal).lower()}; "
            "modprobe nf_conntrack_netlink"
        )
    return _tracked(answer, vip)


def _tracked(answer: bytes, vip: IPv4Address) -> Tracked:
    """Decide as nf_conntrack_core.c does.

    What the client sends is established when both sides were heard, or when the VIP was heard
    first.
    """
    entry = dict(attributes(answer[HEADER.size + FAMILY.size :]))
    source = dict(attributes(dict(attributes(entry.get(_ORIGINAL, b""))).get(_IP, b""))).get(
        _SOURCE, b""
    )
    related = int.from_bytes(entry.get(_STATUS, b""), "big") & _EXPECTED
    state = next(
        (state for _connection, state in ctmessage.connections(answer, vip)), TcpState.ESTABLISHED
    )
    return Tracked(
        TcpState(state).name, bool(related) or source == vip.packed or ctmessage.replied(answer)
    )
