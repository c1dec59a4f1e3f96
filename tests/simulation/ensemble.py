"""A model of a ZooKeeper ensemble: one order of writes, servers that lag, sessions that expire.

It does whatever the Programmer's Guide and the Internals allow, and what was seen of real servers:
a follower that lags, or is cut off from the leader, goes on answering reads; signs of life reach
the leader late and are lost with their follower; after a change of leader a session has the timeout
that it was created with; a write whose answer was lost may have taken place, or still may until its
session is attached again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from maglev0.protocol.ports.zookeeper import Delete, Operation, Refused, Stat, Znode
from tests.simulation.scheduler import Answer, Scheduler
from tests.simulation.tree import Transaction, Tree

TICK_S = 0.2
SERVERS = 3
LEAST_DELAY_S = 0.0001  # of a message in one machine room, and the most
MOST_DELAY_S = 0.0015
_EPOCH = 1 << 32


class Read(NamedTuple):
    """A znode (`None` where there is none), or its stat and the names of its children."""

    path: str
    watch: bool
    children: bool = False


class Request(NamedTuple):
    """One message of a client: what is read, or written."""

    ask: Read | Sequence[Operation]
    answer: Answer[object]


class Gone(Exception):  # noqa: N818  no error: an answer that never comes
    """The connection is gone, and with it all answers."""


class Session:
    """A session as the leader knows it."""

    def __init__(self, number: int, timeout_s: float) -> None:
        self.id = number
        self.timeout_s = timeout_s
        self.original_timeout_s = timeout_s  # what a new leader goes by
        self.deadline = 0.0
        self.alive = True
        self.connection: Connection | None = None


class Connection:
    """One client's connection to one server.

    Requests are answered in their order, and watches fire in the order of the changes.
    """

    def __init__(
        self,
        server: Server,
        session: Session,
        hear: Callable[[Callable[[], None]], None],
        on_close: Callable[[], None],
    ) -> None:
        self.server = server
        self.session = session
        self.open = True
        self.notice: Callable[[str], None] = _nobody
        self.touched = False
        self.hear = hear
        self.on_close = on_close
        self.sent_at = 0.0  # when the last message of each direction arrives
        self.told_at = 0.0
        self._queue: deque[Request] = deque()
        self._busy = False

    def arrive(self, request: Request) -> None:
        """A request reached the server."""
        if self.server.up and self.open:
            self.touch()
            self._queue.append(request)
            self._work()

    def touch(self) -> None:
        """A sign of life reached the server."""
        self.touched = True
        ensemble = self.server.ensemble
        if self.server is ensemble.leader:
            ensemble.prolong(self.session)

    def _work(self) -> None:
        scheduler = self.server.ensemble.scheduler
        while self._queue and not self._busy and self.server.up:
            request = self._queue.popleft()
            if isinstance(request.ask, Read):
                self.tell(partial(request.answer.settle, self.server.read(request.ask, self)))
                if self._queue and scheduler.chance(self.server.ensemble.slow):
                    self._busy = True
                    scheduler.after(self.server.ensemble.delay_s(), self._free)
            else:
                self._busy = True
                self.server.forward(self, request)

    def _free(self) -> None:
        self._busy = False
        self._work()

    def done(self, request: Request, outcome: int | Refused) -> None:
        """The server applied a write of this connection, or learned that it was refused."""
        if isinstance(outcome, Refused):
            self.tell(partial(request.answer.fail, outcome))
        else:
            self.tell(partial(request.answer.settle, outcome))
        self._free()

    def tell(self, action: Callable[[], None]) -> None:
        """Send something to the client, behind all that was sent before."""
        if self.open:
            ensemble = self.server.ensemble
            self.told_at = max(self.told_at, ensemble.scheduler.now + ensemble.delay_s())
            ensemble.scheduler.at(self.told_at, partial(self.hear, action))

    def close(self) -> None:
        """The server closes the connection; what it has taken in it may still carry out."""
        if self.open:
            self.open = False
            self.server.connections.pop(self, None)
            self.on_close()


class Server:
    """One server: the znodes as it knows them, and who is connected to it."""

    def __init__(self, ensemble: Ensemble, name: str) -> None:
        self.ensemble = ensemble
        self.name = name
        self.up = True
        self.cut = False  # from the leader, without having noticed yet
        self.lag_s = 0.0
        self.connections: dict[Connection, None] = {}
        self.applied = 0
        self.tree = Tree()
        self._applies_at = 0.0
        self._data_watches: dict[str, dict[Connection, None]] = {}
        self._child_watches: dict[str, dict[Connection, None]] = {}
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    def __repr__(self) -> str:
        return self.name

    @property
    def serves(self) -> bool:
        """Whether sessions can be attached here."""
        return self.up and not self.cut and self.ensemble.leader is not None

    def read(self, ask: Read, connection: Connection) -> object:
        """Answer from what this server knows."""
        node = self.tree.nodes.get(ask.path)
        if ask.watch and not (ask.children and node is None):
            (self._child_watches if ask.children else self._data_watches).setdefault(ask.path, {})[
                connection
            ] = None
        if ask.children:
            return None if node is None else (list(self.tree.children[ask.path]), node.stat)
        return node

    def forward(self, connection: Connection, request: Request) -> None:
        """Pass a write to the leader."""
        ensemble = self.ensemble
        if not self.cut or ensemble.scheduler.chance(0.2):  # a cut may be a delay
            late_s = ensemble.scheduler.random.random() if self.cut else 0.0
            ensemble.scheduler.after(
                ensemble.delay_s() + late_s,
                partial(ensemble.propose, connection, request, ensemble.epoch),
            )

    def soon(self, index: int) -> None:
        """Apply what the leader has decided, when that arrives here."""
        scheduler = self.ensemble.scheduler
        self._applies_at = max(
            self._applies_at, scheduler.now + self.ensemble.delay_s() + self.lag_s
        )
        scheduler.at(self._applies_at, partial(self._apply_if_connected, index))

    def _apply_if_connected(self, index: int) -> None:
        if self.up and not self.cut:
            self.apply(index)

    def apply(self, index: int) -> None:
        """Apply all transactions up to there, and fire the watches."""
        log = self.ensemble.log
        while self.applied < index:
            transaction = log[self.applied]
            self.applied += 1
            self.tree.apply(transaction)
            for change in transaction.changes:
                if change.data:
                    self._fire(self._data_watches, change.path)
                if change.children:
                    self._fire(self._child_watches, change.path)
            if transaction.closes:
                self._close_session(transaction.closes)
        while self._waiting and self._waiting[0][0] <= self.applied:
            self._waiting.popleft()[1]()

    def _fire(self, watches: dict[str, dict[Connection, None]], path: str) -> None:
        for connection in watches.pop(path, ()):
            connection.tell(partial(connection.notice, path))

    def _close_session(self, session: int) -> None:
        for connection in [one for one in self.connections if one.session.id == session]:
            connection.close()

    def when_applied(self, index: int, action: Callable[[], None]) -> None:
        """Do something once this server has applied that much."""
        if index <= self.applied:
            action()
        else:
            self._waiting.append((index, action))

    def disconnect(self) -> None:
        """Close all connections, because no leader is in sight.

        Watches, signs of life and waiting requests are lost with them.
        """
        for connection in list(self.connections):
            connection.close()
        self._waiting.clear()
        self._data_watches.clear()
        self._child_watches.clear()


class Ensemble:
    """The servers, of which one leads, and what they have agreed on."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.slow = 0.0  # how likely a message is late
        self.epoch = 1
        self.log: list[Transaction] = []
        self.tree = Tree()
        self.servers = [Server(self, f"zk{number}") for number in range(1, SERVERS + 1)]
        self.leader: Server | None = self.servers[0]
        self.sessions: dict[int, Session] = {}
        self._zxid = _EPOCH
        scheduler.after(TICK_S / 2, self._tell_touches)

    def delay_s(self) -> float:
        """How long a message takes."""
        random = self.scheduler.random
        delay = LEAST_DELAY_S + (MOST_DELAY_S - LEAST_DELAY_S) * random.random()
        return (
            delay + random.expovariate(12.0) if self.slow and random.random() < self.slow else delay
        )

    def propose(self, connection: Connection, request: Request, epoch: int) -> None:
        """A write reached the leader."""
        session = connection.session
        if self.leader is None or epoch != self.epoch or session.connection is not connection:
            return  # lost with the leader, or the session has moved
        if not session.alive:
            connection.close()
            return
        assert not isinstance(request.ask, Read)
        outcome: int | Refused
        try:
            outcome = self.commit(request.ask, session.id)
        except Refused as refused:
            outcome = refused
        connection.server.when_applied(len(self.log), partial(connection.done, request, outcome))

    def commit(self, operations: Sequence[Operation], session: int, closes: int = 0) -> int:
        """Give a transaction its place in the order, and return its zxid; raises `Refused`."""
        transaction = self.tree.plan(self._zxid + 1, operations, session)._replace(closes=closes)
        self._zxid += 1
        self.log.append(transaction)
        self.tree.apply(transaction)
        for server in self.servers:
            server.soon(len(self.log))
        return transaction.zxid

    def open_session(self, timeout_s: float) -> Session:
        """Create a session."""
        session = Session(0xA000 + len(self.sessions), timeout_s)
        self.sessions[session.id] = session
        self.commit((), session.id)
        self.prolong(session)
        self._watch(session)
        return session

    def prolong(self, session: Session) -> None:
        """The leader learned of a sign of life."""
        session.deadline = self.scheduler.now + session.timeout_s

    def _watch(self, session: Session) -> None:
        """End a session that showed no sign of life.

        That is no earlier than its timeout and up to two ticks later.
        """
        if not session.alive:
            return
        now = self.scheduler.now
        if self.leader is not None and now >= session.deadline:
            self.close_session(session)
            return
        late_s = self.scheduler.random.random() * TICK_S
        self.scheduler.at(max(session.deadline, now) + late_s, partial(self._watch, session))

    def close_session(self, session: Session) -> None:
        """End a session: its ephemeral znodes go with it, in one transaction."""
        session.alive = False
        self.scheduler.trace("leader", "ends session", hex(session.id))
        owned = [
            Delete(path, -1)
            for path, node in self.tree.nodes.items()
            if node.stat.owner == session.id
        ]
        self.commit(owned, session.id, closes=session.id)

    def _tell_touches(self) -> None:
        """Followers tell the leader twice a tick who was alive."""
        for server in self.servers:
            if server.up and not server.cut and self.leader is not None:
                for connection in server.connections:
                    if connection.touched and connection.session.connection is connection:
                        connection.touched = False
                        self.prolong(connection.session)
        self.scheduler.after(TICK_S / 2, self._tell_touches)

    def lose_leader(self) -> None:
        """The leader is silent from now on.

        No write takes place; all servers that have not noticed answer reads.
        """
        self.scheduler.trace("ensemble", "leader silent", self.leader)
        self.leader = None
        self.epoch += 1

    def elect(self) -> None:
        """A new leader: one of the servers that are there, all of which have what was decided.

        Sessions have their first timeouts.
        """
        able = [server for server in self.servers if server.up and not server.cut]
        if self.leader is not None or 2 * len(able) <= SERVERS:
            return
        for server in able:
            server.disconnect()
            server.apply(len(self.log))
        self.leader = self.scheduler.random.choice(able)
        self._zxid = _EPOCH * self.epoch
        self.scheduler.trace("ensemble", "leader elected", self.leader)
        for session in self.sessions.values():
            session.timeout_s = session.original_timeout_s
            self.prolong(session)

    def heal(self, server: Server) -> None:
        """A server is back, and has caught up before it serves."""
        server.disconnect()
        server.up, server.cut = True, False
        server.apply(len(self.log))
        if self.leader is None:
            self.elect()


def looked(found: object) -> Stat | None:
    """The stat of a znode as read."""
    return found.stat if isinstance(found, Znode) else None


def _nobody(_path: str) -> None:
    """Nobody listens yet."""
