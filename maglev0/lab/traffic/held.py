"""Holds TCP connections that exchange lines, and records the time of every break and silence."""

from __future__ import annotations

import json
import re
import select
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

from maglev0.lab.testbed import addresses

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address
    from pathlib import Path

    from maglev0.lab.traffic.raw import Segment

EXCHANGE_S = 1.0
# One connection in IDLE_SHARE is idle: it exchanges a line only every IDLE_EXCHANGES rounds, so
# that nodes cannot rely on its traffic to keep it.
IDLE_EXCHANGES = 20
IDLE_SHARE = 4
# TCP's doubling timeout (RFC 6298, from 200 ms) reaches 6.4 s after 12.6 s without an
# acknowledgement; a network cut may last that long.
SILENT_S = 15.0
# A slower answer than a busy machine needs is recorded as a stall.
STALL_S = 0.3
# The pause before a refused connection is tried again, so that no node is flooded.
RETRY_S = 0.2
_ANSWER = re.compile(rb"(\d+) backend-(\d+)\n")
_READ_BYTES = 4096


class Turn(NamedTuple):
    """An event of a held connection.

    `what` is opened, closed, reset, ended, silent, refused, stalled or foreign; foreign means that
    another node than the holder sent a packet on it. `node` is the holder, 0 before it is known.
    `since_ns` is the sending time of the request that waited for its answer, or `at_ns` where none
    did. `good_ns` is the last time at which the connection certainly worked: its last answer, or
    its opening. Times are CLOCK_MONOTONIC.
    """

    at_ns: int
    connection: int
    what: str
    node: int
    since_ns: int
    good_ns: int

    @property
    def is_break(self) -> bool:
        """Whether this event ended the connection."""
        return self.what in {"reset", "ended", "silent"}


def write(turns: Sequence[Turn], path: Path) -> None:
    """Save the events, one JSON array per line."""
    path.write_text("".join(json.dumps(turn) + "\n" for turn in turns))


def read(path: Path) -> list[Turn]:
    """Read the events that `write` saved."""
    return [Turn(*json.loads(line)) for line in path.read_text().splitlines()]


@dataclass
class _HeldConnection:
    number: int
    address: str
    sock: socket.socket | None = None
    port: int = 0
    node: int = 0
    stands: bool = False
    wire_node: int | None = None  # the node that sent the first packet
    good_ns: int = 0
    asked_ns: int = 0  # the connection attempt or request that waits for its answer; 0 for none
    retry_ns: int = 0
    sent: int = 0

    @classmethod
    def of(cls, number: int) -> Self:
        return cls(number, str(addresses.client_address(number)))


class Held:
    """All held connections.

    The owner of the epoll calls `ready` for the descriptors that `owns` accepts, and `step` often.
    """

    def __init__(self, target: tuple[IPv4Address, int], count: int, waiting: select.epoll) -> None:
        self._target = (str(target[0]), target[1])
        self._epoll = waiting
        self._connections = [_HeldConnection.of(number) for number in range(count)]
        self._by_descriptor: dict[int, _HeldConnection] = {}
        self._by_flow: dict[tuple[bytes, int], _HeldConnection] = {}
        self._next = 0
        self._due_ns = time.monotonic_ns()
        self._step_ns = int(EXCHANGE_S * 1e9) // max(1, count)
        self.turns: list[Turn] = []

    def owns(self, descriptor: int) -> bool:
        """Whether a descriptor belongs to a held connection."""
        return descriptor in self._by_descriptor

    def by_node(self) -> dict[int, int]:
        """The number of established connections by node.

        Key 0 counts the connections that are not established or whose holder is not known yet.
        """
        found: dict[int, int] = {}
        for connection in self._connections:
            node = connection.node if connection.stands else 0
            found[node] = found.get(node, 0) + 1
        return found

    def step(self, now_ns: int) -> None:
        """Serve the connections that are due; each one is due once in `EXCHANGE_S`."""
        while self._due_ns <= now_ns and self._connections:
            self._due_ns += self._step_ns
            self._attend(
                self._connections[self._next % len(self._connections)],
                self._next // len(self._connections),
                now_ns,
            )
            self._next += 1

    def _attend(self, connection: _HeldConnection, round_number: int, now_ns: int) -> None:
        if connection.sock is None:
            if now_ns >= connection.retry_ns:
                self._open(connection, now_ns)
        elif connection.stands and connection.asked_ns:
            if now_ns - connection.asked_ns > SILENT_S * 1e9:
                self._lose(connection, "silent", now_ns)
        elif connection.stands and (
            connection.number % IDLE_SHARE
            or round_number % IDLE_EXCHANGES == 0
            or not connection.node
        ):
            self._ask(connection, connection.sock, now_ns)

    def _open(self, connection: _HeldConnection, now_ns: int) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.bind((connection.address, 0))
            sock.connect(self._target)
        except BlockingIOError:
            pass
        except OSError:  # no route or no neighbour
            sock.close()
            connection.retry_ns = now_ns + int(RETRY_S * 1e9)
            return
        connection.sock, connection.port, connection.asked_ns = sock, sock.getsockname()[1], now_ns
        connection.node, connection.wire_node, connection.stands, connection.good_ns = (
            0,
            None,
            False,
            now_ns,
        )
        self._by_descriptor[sock.fileno()] = connection
        self._by_flow[socket.inet_aton(connection.address), connection.port] = connection
        self._epoll.register(sock, select.EPOLLOUT)

    def _ask(self, connection: _HeldConnection, sock: socket.socket, now_ns: int) -> None:
        connection.sent += 1
        connection.asked_ns = now_ns
        try:
            sock.send(b"%d\n" % connection.sent)
        except OSError:
            self._lose(connection, "reset", now_ns)

    def ready(self, descriptor: int, events: int) -> None:
        """Handle an epoll event of a connection's socket."""
        connection, now_ns = self._by_descriptor[descriptor], time.monotonic_ns()
        sock = connection.sock
        if sock is None:
            return
        if connection.stands:
            self._hear(connection, sock, now_ns)
        elif sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lose(connection, "refused", now_ns)
        elif events & select.EPOLLOUT:
            connection.stands, connection.asked_ns = True, 0
            self._epoll.modify(descriptor, select.EPOLLIN | select.EPOLLRDHUP)
            self._ask(connection, sock, now_ns)

    def _hear(self, connection: _HeldConnection, sock: socket.socket, now_ns: int) -> None:
        try:
            data = sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._lose(connection, "reset", now_ns)
            return
        match = _ANSWER.fullmatch(data)
        if match is None:
            self._lose(connection, "ended", now_ns)
            return
        if not connection.node:
            connection.node = int(match[2])
            self._record(connection, "opened", now_ns)
        elif now_ns - connection.asked_ns > STALL_S * 1e9:
            self._record(connection, "stalled", now_ns)
        connection.asked_ns, connection.good_ns = 0, now_ns

    def _lose(self, connection: _HeldConnection, what: str, now_ns: int) -> None:
        self._record(connection, what, now_ns)
        self._close(connection, now_ns)

    def _close(self, connection: _HeldConnection, now_ns: int) -> None:
        if connection.sock is not None:
            del self._by_descriptor[connection.sock.fileno()]
            del self._by_flow[socket.inet_aton(connection.address), connection.port]
            connection.sock.close()
        connection.sock, connection.stands = None, False
        connection.retry_ns = now_ns + int(RETRY_S * 1e9)

    def retire(self, node: int) -> int:
        """Close the connections at a node as their users would, and return how many.

        New connections replace them.
        """
        now_ns = time.monotonic_ns()
        retired = [
            connection
            for connection in self._connections
            if connection.stands and connection.node == node
        ]
        for connection in retired:
            self._record(connection, "closed", now_ns)
            self._close(connection, now_ns)
        return len(retired)

    def overhear(self, segment: Segment) -> None:
        """Check the sender of a packet on the wire: only the holder may send on a connection."""
        connection = self._by_flow.get((segment.client, segment.port))
        if connection is None:
            return
        if connection.wire_node is None:
            connection.wire_node = segment.node
        elif segment.node != connection.wire_node:
            now_ns = time.monotonic_ns()
            self._record(connection, "foreign", now_ns)

    def _record(self, connection: _HeldConnection, what: str, now_ns: int) -> None:
        self.turns.append(
            Turn(
                now_ns,
                connection.number,
                what,
                connection.node,
                connection.asked_ns or now_ns,
                connection.good_ns,
            )
        )
