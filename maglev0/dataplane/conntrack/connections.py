"""The TCP connections that this host holds, as connection tracking (conntrack) knows them.

A dump is no snapshot, because the kernel walks the hash table while it answers. It can miss entries
as follows.

- The walk finds every entry that exists from its start to its end, in whatever order others come
  and go: entries stay in their chain, and the kernel reads a chain again when the entry at which it
  stopped is removed. So it may find an entry twice, which changes only `alive`.
- When the kernel resizes the table during the walk, entries change places and the walk may miss
  them. `held` compares the size before and after, and repeats the walk when it changed.
- The walk may miss an entry made during the walk. A TCP connection begins with a SYN, which is
  accepted only in buckets in force, and the kernel makes the entry some microseconds later, when
  the SYN has passed all hooks. So a bucket that `held` does not name holds no connection *if it was
  out of force before `held` was called*. Two calls in a row, neither of which names the bucket,
  cover those microseconds and an address that is not judged yet.

The rules drop packets of connections that conntrack has forgotten: those of a flushed table, or
idle for longer than their time-out (5 days when established).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashMode
from maglev0.dataplane.conntrack import message as ctmessage
from maglev0.dataplane.conntrack import sockdiag
from maglev0.dataplane.conntrack.message import Connection, ConntrackEntry, TcpState
from maglev0.dataplane.conntrack.sockdiag import SocketState
from maglev0.dataplane.netlink.dump import dumped
from maglev0.dataplane.netlink.message import NETLINK_NETFILTER
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.readings import Connections

# In these states a side may still send. SYN_RECV has been answered, so its client takes it for
# established. In FIN_WAIT and CLOSE_WAIT one side has ended and the other may send for hours. In
# LAST_ACK the last data may have to be sent again. In TIME_WAIT and CLOSE nothing is left to be
# sent. SYN_SENT has not been answered: when its SYN is sent again, the new owner answers.
ALIVE = frozenset(
    {
        TcpState.SYN_RECV,
        TcpState.ESTABLISHED,
        TcpState.FIN_WAIT,
        TcpState.CLOSE_WAIT,
        TcpState.LAST_ACK,
        TcpState.SYN_SENT2,
    }
)

_ATTEMPTS = 3
# How many bytes of a connection the hash sees.
_HASHED_BYTES = {
    HashMode.SOURCE_IP: 4,
    HashMode.SOURCE_IP_PORT: 6,
    HashMode.SOURCE_IP_PORT_DEST_PORT: 8,
}
_FIELDS = struct.Struct("!4sHH")
_TCP = 6
# The state that conntrack would have, had it seen all that led to a socket's state.
_STATES = {
    SocketState.SYN_RECV: TcpState.SYN_RECV,
    SocketState.ESTABLISHED: TcpState.ESTABLISHED,
    SocketState.FIN_WAIT1: TcpState.FIN_WAIT,
    SocketState.FIN_WAIT2: TcpState.CLOSE_WAIT,
    SocketState.CLOSE_WAIT: TcpState.CLOSE_WAIT,
    SocketState.LAST_ACK: TcpState.LAST_ACK,
    SocketState.CLOSING: TcpState.LAST_ACK,
}
_SYSCTL = Path("/proc/sys/net/netfilter")  # of the calling thread's namespace
_NETLINK_SOCK_DIAG = 4
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_ASKED_AT_ONCE = 32  # a few milliseconds' work; the answers fit into a socket's receive buffer
_NO_MODULE = (errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
_REMEDIES = {
    errno.EPERM: "run as root",
    errno.ENOMEM: "is the table full? raise net.netfilter.nf_conntrack_max",
}
_RECEIVE = 1 << 15
_TIMEOUT_S = 2.0  # the answers are there when a question has been sent


async def held(vip: IPv4Address, hashing: PacketHash) -> Connections:
    """Return the TCP connections to the VIP that conntrack holds.

    It reads the network namespace of the calling thread. `buckets` are those with any entry at all,
    whatever its state; `alive` is how many entries are in a state of `ALIVE`. It takes 10 ms of
    processor time when the table is empty, 0.5 s with 200,000 entries to other addresses, 0.8 s
    with as many to the VIP, and 5 us more for each new hash: one per source, or one per connection
    if ports are hashed. The loop waits for at most 10 ms of these.

    Raises `DataplaneError`. The top of this module says what the absence of a bucket means.
    """
    for _attempt in range(_ATTEMPTS):
        size = _table_size()
        flows = await _walk(vip, hashing)
        if _table_size() == size:
            return flows
    raise DataplaneError("reading connection tracking: its hash table is resized all the time")


async def enter_sockets(vip: IPv4Address, hashing: PacketHash) -> frozenset[int]:
    """Enter the TCP connections of this host's sockets to the VIP; return their buckets.

    It enters them into conntrack. Afterwards `ct state established` is true of what both sides
    send. Connections that conntrack knows stay as they are, with one exception: if it has heard one
    side only, because it began to listen in the middle, it is told that both sides were heard.
    Otherwise they would be `new`.

    Entries can be made before any rule uses conntrack, but are matched, and kept alive, from such a
    rule on. So the order is: a rule that names `ct` and drops nothing; `enter_sockets`; the rules
    that drop; and `enter_sockets` again, for what began before the first of these was complete.

    Raises `DataplaneError`, for instance when the table is full; another call goes on from there.
    """
    buckets = _HashedBuckets(hashing)
    for family in (sockdiag.AF_INET, sockdiag.AF_INET6):
        async with _reading(
            "TCP sockets", "tcp_diag", _NETLINK_SOCK_DIAG, sockdiag.dump(vip, family)
        ) as dump:
            async for messages in dump:
                sockets = list(sockdiag.connections(messages))
                buckets.add(connection for connection, _state in sockets)
                await _enter(vip, [(connection, _STATES[state]) for connection, state in sockets])
    return buckets.found()


class _HashedBuckets:
    """The buckets of connections, each hashed once."""

    def __init__(self, hashing: PacketHash) -> None:
        self._hashing = hashing
        self._seen: set[bytes] = set()
        self._found: set[int] = set()

    def add(self, connections: Iterable[Connection]) -> None:
        hashed = _HASHED_BYTES[self._hashing.mode]
        fresh = {connection[:hashed] for connection in connections} - self._seen
        self._seen |= fresh
        self._found.update(map(self._bucket, fresh))

    def found(self) -> frozenset[int]:
        return frozenset(self._found)

    def _bucket(self, seen: bytes) -> int:
        client, client_port, port = _FIELDS.unpack(seen.ljust(_FIELDS.size, b"\0"))
        return self._hashing.bucket(PacketFields(IPv4Address(client), _TCP, client_port, port))


async def _walk(vip: IPv4Address, hashing: PacketHash) -> Connections:
    buckets = _HashedBuckets(hashing)
    alive = 0
    async with _reading(
        "connection tracking", "nf_conntrack_netlink", NETLINK_NETFILTER, ctmessage.dump()
    ) as dump:
        async for messages in dump:
            found = list(ctmessage.connections(messages, vip))
            alive += sum(state in ALIVE for _connection, state in found)
            buckets.add(connection for connection, _state in found)
    return Connections(buckets.found(), alive)


def _table_size() -> str:
    """Return how many chains the hash table has; empty before conntrack's module is loaded."""
    try:
        return (_SYSCTL / "nf_conntrack_buckets").read_text()
    except FileNotFoundError:
        return ""


async def _enter(vip: IPv4Address, connections: Sequence[tuple[Connection, TcpState]]) -> None:
    """Enter some connections, a few at a time."""
    with (
        _errors("entering connections into connection tracking", "nf_conntrack_netlink"),
        _open() as kernel,
    ):
        # The first question loads conntrack's modules, and with them come its settings.
        _ask(
            kernel,
            ctmessage.look,
            [ConntrackEntry(vip, connection, state, 0) for connection, state in connections[:1]],
            errno.ENOENT,
        )
        timeouts_s = {state: _timeout_s(state) for _connection, state in connections}
        entries = [
            ConntrackEntry(vip, connection, state, timeouts_s[state])
            for connection, state in connections
        ]
        for start in range(0, len(entries), _ASKED_AT_ONCE):
            await asyncio.sleep(0)
            known = _ask(
                kernel, ctmessage.create, entries[start : start + _ASKED_AT_ONCE], errno.EEXIST
            )
            _confirm(kernel, [entry for entry, code, _answer in known if code])


def _confirm(kernel: socket.socket, known: Sequence[ConntrackEntry]) -> None:
    """Tell conntrack that both sides were heard, for connections where it heard one.

    Connections that are gone or going are left out.
    """
    looked = _ask(kernel, ctmessage.look, known, errno.ENOENT)
    half_heard = [
        entry for entry, code, answer in looked if not code and not ctmessage.replied(answer)
    ]
    _ask(kernel, ctmessage.confirm, half_heard, errno.ENOENT, errno.EBUSY)


def _timeout_s(state: TcpState) -> int:
    """Return how many seconds the kernel keeps a silent connection in that state."""
    setting = _SYSCTL / f"nf_conntrack_tcp_timeout_{state.name.lower()}"
    try:
        return int(setting.read_text())
    except OSError as error:
        raise DataplaneError(
            f"reading {setting}: {(error.strerror or str(error)).lower()}; modprobe nf_conntrack"
        ) from error


def _open() -> socket.socket:
    kernel = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
    )
    kernel.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # refusals need not repeat what was asked
    kernel.settimeout(_TIMEOUT_S)
    return kernel


def _ask(
    kernel: socket.socket,
    question: Callable[[int, ConntrackEntry], bytes],
    entries: Sequence[ConntrackEntry],
    *expected: int,
) -> list[tuple[ConntrackEntry, int, bytes]]:
    """Ask about each entry; return the entry, the error number of its refusal and the answer.

    OSError when one is refused for an unexpected reason.
    """
    if entries:
        kernel.send(b"".join(question(number, entry) for number, entry in enumerate(entries)))
    answered = []
    for _ in entries:
        answer = kernel.recv(_RECEIVE)
        code = ctmessage.refusal(answer)
        if code not in (0, *expected):
            raise OSError(code, os.strerror(code))
        answered.append((entries[ctmessage.number_of(answer)], code, answer))
    return answered


@asynccontextmanager
async def _reading(
    what: str, module: str, protocol: int, request: bytes
) -> AsyncIterator[AsyncIterator[bytes]]:
    with _errors(f"reading {what}", module):
        async with aclosing(dumped(protocol, request)) as dump:
            yield dump


@contextmanager
def _errors(doing: str, module: str) -> Iterator[None]:
    """Turn a refusal of the kernel into one line that says what fixes it."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "") or (
            f"modprobe {module}" if error.errno in _NO_MODULE else ""
        )
        cause = (error.strerror or str(error)).lower()
        raise DataplaneError(f"{doing}: {cause}" + (f"; {remedy}" if remedy else "")) from error
