"""A client of the model ensemble that behaves as kazoo does.

It reconnects by itself, and the loop learns of it later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from maglev0.protocol.ports.zookeeper import (
    Committed,
    Disconnected,
    Operation,
    Refused,
    Stat,
    Write,
    Znode,
)
from tests.simulation.ensemble import Connection, Ensemble, Read, Request, Server, Session, looked
from tests.simulation.scheduler import Answer, Process

OVERTAKEN_S = 0.002
READ_TIMEOUT_SHARE = (
    2 / 3
)  # of the session timeout: a server that is silent for so long is given up


class Client:
    """One session of one process, behind `znodes.ZooKeeper`."""

    def __init__(
        self,
        ensemble: Ensemble,
        process: Process,
        notice: Callable[[str | None], None],
        timeout_s: float,
        former: Session | None,
    ) -> None:
        self.session = 0  # as the loop knows it
        self.connected = False
        self.cut = False  # from all servers
        self.truth = former
        self.timeout_s = timeout_s
        self.changed: Answer[None] = Answer()
        self._ensemble = ensemble
        self._scheduler = ensemble.scheduler
        self._process = process
        self._notice = notice
        self._connection: Connection | None = None
        self._seen = 0  # how much of the log this session has seen the effect of
        self._heard_at = 0.0
        self._answers_at = 0.0  # when the last answer reaches the loop
        self._stalled: list[Callable[[], None]] = []
        self._asked: dict[Answer[object], float] = {}
        self._kept: list[Request] = []
        self._closed = False
        self._again()
        self._scheduler.after(timeout_s / 3, self._ping)

    async def get(self, path: str, *, watch: bool = False) -> Znode | None:
        """See `znodes.ZooKeeper`."""
        return await self._ask(Read(path, watch))  # type: ignore[return-value]

    async def get_all(self, paths: Sequence[str], *, watch: bool = False) -> list[Znode | None]:
        """See `znodes.ZooKeeper`."""
        self._require_connected()
        answers = [self._ask(Read(path, watch)) for path in paths]
        return [await answer for answer in answers]  # type: ignore[misc]

    async def children(self, path: str, *, watch: bool = False) -> tuple[list[str], Stat] | None:
        """See `znodes.ZooKeeper`."""
        return await self._ask(Read(path, watch, children=True))  # type: ignore[return-value]

    async def commit(self, operations: Sequence[Operation], look: str | None = None) -> Committed:
        """See `znodes.ZooKeeper`."""
        session = self.session
        writes = self._ask(tuple(operations))
        looking = None if look is None else self._ask(Read(look, watch=False))
        try:
            zxid = await writes
        except Refused:
            if looking is not None:
                await looking
            raise
        found = None if looking is None else await looking
        if self.session != session:
            raise Disconnected
        assert isinstance(zxid, int)
        return Committed(
            zxid if any(isinstance(one, Write) for one in operations) else 0, looked(found)
        )

    def _require_connected(self) -> None:
        if not self.connected:
            raise Disconnected

    def _ask(self, ask: Read | tuple[Operation, ...]) -> Answer[object]:
        self._require_connected()
        request = Request(ask, Answer())
        at = self._process.free_at
        self._asked[request.answer] = at
        self._scheduler.trace(self._process, "asks", ask)
        if at > self._scheduler.now:
            self._scheduler.at(at, partial(self._send, request))
        else:
            self._send(request)
        return request.answer

    def _send(self, request: Request) -> None:
        connection = self._connection
        if not self._process.alive:
            return
        if connection is None:
            self._kept.append(request)
            return
        connection.sent_at = max(connection.sent_at, self._scheduler.now + self._ensemble.delay_s())
        self._scheduler.at(
            connection.sent_at, partial(self._pass, partial(connection.arrive, request))
        )

    def _pass(self, message: Callable[[], None]) -> None:
        """A message passes the network, or waits in it."""
        if self.cut:
            self._stalled.append(message)
        else:
            message()

    def _hear(self, connection: Connection, index: int, action: Callable[[], None]) -> None:
        if self.cut:
            self._stalled.append(partial(self._hear, connection, index, action))
        elif connection is self._connection:
            self._heard_at = self._scheduler.now
            self._seen = max(self._seen, index)
            self._hand_over(action)

    def _hand_over(self, action: Callable[[], None]) -> None:
        """An answer reaches the loop, after those before it.

        kazoo has a thread each for answers and events, and either may overtake the other.
        """
        random, now = self._scheduler.random, self._scheduler.now
        late_s = OVERTAKEN_S * random.random() if random.random() < 0.1 else 0.0
        self._answers_at = max(self._answers_at, now + late_s)
        if self._answers_at > now:
            self._scheduler.at(self._answers_at, partial(self._process.deliver, action))
        else:
            self._process.deliver(action)

    def heal(self) -> None:
        """The network passes messages again: those that waited arrive."""
        self.cut = False
        stalled, self._stalled = self._stalled, []
        for message in stalled:
            message()

    def _ping(self) -> None:
        """Keep the session alive, and give up on what is silent."""
        now, process = self._scheduler.now, self._process
        if not process.alive or self._closed:
            return
        if process.stopped_until > now:
            self._scheduler.at(process.stopped_until, self._ping)
            return
        if self._connection is not None:
            if not self.cut and self._connection.server.up:
                self._heard_at = now
                self._connection.touch()
            else:
                silent_until = max(self._heard_at + READ_TIMEOUT_SHARE * self.timeout_s, now)
                self._scheduler.at(silent_until, partial(self._tire, self._connection))
        self._give_up(now)
        self._scheduler.after(process.span(self.timeout_s / 3), self._ping)

    def _tire(self, connection: Connection) -> None:
        """Wait no longer for a server, if it was silent all the time."""
        silent_s = self._scheduler.now - self._heard_at
        if (
            connection is self._connection
            and self._process.alive
            and silent_s >= READ_TIMEOUT_SHARE * self.timeout_s - 1e-6
        ):
            self._lose()

    def _give_up(self, now: float) -> None:
        """Stop waiting for answers that took too long; what was asked may still take place."""
        for answer, sent_at in list(self._asked.items()):
            if answer.settled:
                del self._asked[answer]
            elif now - sent_at > self.timeout_s:
                del self._asked[answer]
                self._process.deliver(partial(answer.fail, Disconnected()))

    def _lose(self) -> None:
        """The connection is gone; everything asked on it fails."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._scheduler.trace(self._process, "lost its connection to", connection.server)
        asked, self._asked = self._asked, {}
        for answer in asked:
            self._process.deliver(partial(answer.fail, Disconnected()))
        self._process.deliver(partial(self._record, self.session, connected=False))
        self._again()

    def _on_close(self, connection: Connection) -> None:
        at = max(self._scheduler.now + self._ensemble.delay_s(), self._process.stopped_until)
        self._scheduler.at(at, partial(self._closed_by_server, connection))

    def _closed_by_server(self, connection: Connection) -> None:
        if connection is self._connection and self._process.alive:
            if self.cut:
                self._scheduler.after(0.1, partial(self._closed_by_server, connection))
            else:
                self._lose()

    def _record(self, session: int, *, connected: bool) -> None:
        self.session, self.connected = session, connected
        self.changed.settle(None)
        self.changed = Answer()
        self._notice(None)

    def _again(self) -> None:
        self._scheduler.after(0.002 + 0.1 * self._scheduler.random.random() ** 2, self._connect)

    def _connect(self) -> None:
        """Attach the session to some server, or find that it is over."""
        process = self._process
        if not process.alive or self._closed or self._connection is not None:
            return
        server = self._scheduler.random.choice(self._ensemble.servers)
        if (
            process.stopped_until > self._scheduler.now
            or self.cut
            or not server.serves
            or server.applied < self._seen
        ):
            self._again()
            return
        if self.truth is not None and not self.truth.alive:
            self._scheduler.trace(process, "session expired", hex(self.truth.id))
            self.truth = None
            process.deliver(partial(self._record, self.session, connected=False))
        if self.truth is None:
            self.truth = self._ensemble.open_session(self.timeout_s)
        self._attach(server, self.truth)

    def _attach(self, server: Server, session: Session) -> None:
        connection = Connection(server, session, lambda _action: None, lambda: None)
        connection.hear = lambda action: self._hear(connection, server.applied, action)
        connection.on_close = lambda: self._on_close(connection)
        connection.notice = self._watched
        server.connections[connection] = None
        former, session.connection = session.connection, connection
        if former is not None:
            former.close()
        session.timeout_s = self.timeout_s
        self._ensemble.prolong(session)
        self._connection = connection
        self._heard_at = self._scheduler.now
        self._scheduler.trace(self._process, "session", hex(session.id), "attached to", server)
        self._process.deliver(partial(self._record, session.id, connected=True))
        kept, self._kept = self._kept, []
        for request in kept:
            self._send(request)

    def _watched(self, path: str) -> None:
        """A watch fired, see `_hand_over`."""
        random = self._scheduler.random
        if random.random() < 0.1:
            self._scheduler.after(
                OVERTAKEN_S * random.random(),
                partial(self._process.deliver, partial(self._notice, path)),
            )
        else:
            self._notice(path)

    async def close(self) -> None:
        """End the session."""
        self._closed = True
        connection, session = self._connection, self.truth
        if connection is None or session is None or self.cut:
            return
        await self._process.sleep(self._ensemble.delay_s())
        if (
            session.alive
            and session.connection is connection
            and self._ensemble.leader is not None
            and not connection.server.cut
        ):
            self._ensemble.close_session(session)

    def abandon(self) -> None:
        """The process is gone; what it has sent may arrive still."""
        self._closed = True
