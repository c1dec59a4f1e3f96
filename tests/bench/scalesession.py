"""A ZooKeeper session at a fraction of kazoo's price, for `tests.bench.scalemembers`.

A hundred of kazoo's leave ZooKeeper no processor time here.

It asks the server for what `maglev0.zookeeper.Session` asks for, request by request, in kazoo's own
encoding. A connection that breaks is its end.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from kazoo.exceptions import EXCEPTIONS, NoNodeError
from kazoo.protocol import serialization as wire
from kazoo.protocol.connection import PING_XID, WATCH_XID
from kazoo.security import OPEN_ACL_UNSAFE

from maglev0.coordination import translation
from maglev0.coordination.session import SessionState
from maglev0.protocol.ports.zookeeper import (
    Committed,
    Create,
    Delete,
    Disconnected,
    Operation,
    Stat,
    VersionGuard,
    Write,
    Znode,
)

PINGS_PER_TIMEOUT = 3
_LENGTH = struct.Struct("!i")
_XID_AND_KIND = struct.Struct("!ii")
_EPHEMERAL = 1  # CreateMode of ZooKeeper


class Wire(asyncio.Protocol):
    """One connection: requests go out at once, answers come back in their order.

    `heard` is called with the path of each watch that fired.
    """

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard
        self._received = bytearray()
        self._asked: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._transport: asyncio.WriteTransport | None = None
        self._xid = 0
        self.sent_any = False
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost.set()
        for _request, answer in self._asked:
            if not answer.done():
                answer.set_exception(Disconnected())

    def data_received(self, data: bytes) -> None:
        self._received += data
        start = 0
        while len(self._received) >= start + 4:
            (length,) = _LENGTH.unpack_from(self._received, start)
            if len(self._received) < start + 4 + length:
                break
            self._take(bytes(self._received[start + 4 : start + 4 + length]))
            start += 4 + length
        del self._received[:start]

    def ask(self, request: Any) -> asyncio.Future[Any]:
        """Send a request; its answer, or kazoo's exception for it."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.lost.is_set():
            answer.set_exception(Disconnected())
            return answer
        self._xid += 1
        self._asked.append((request, answer))
        self._send(
            b"" if request.type is None else _XID_AND_KIND.pack(self._xid, request.type), request
        )
        return answer

    def ping(self) -> None:
        """Show the server a sign of life, unless it had one since the last time."""
        if not self.sent_any and not self.lost.is_set():
            self._send(_XID_AND_KIND.pack(PING_XID, wire.Ping.type), wire.PingInstance)
        self.sent_any = False

    def close(self) -> None:
        """End the connection, once everything is sent."""
        assert self._transport is not None
        self._transport.close()

    def _send(self, header: bytes, request: Any) -> None:
        assert self._transport is not None
        content = header + request.serialize()
        self._transport.write(_LENGTH.pack(len(content)) + content)
        self.sent_any = True

    def _take(self, message: bytes) -> None:
        if self._asked and self._asked[0][0].type is None:
            _settle(self._asked.popleft()[1], wire.Connect.deserialize(message, 0)[0])
            return
        header, offset = wire.ReplyHeader.deserialize(message, 0)
        if header.xid == WATCH_XID:
            self._heard(wire.Watch.deserialize(message, offset)[0].path)
        elif header.xid != PING_XID:
            request, answer = self._asked.popleft()
            _settle(
                answer,
                EXCEPTIONS[header.err]() if header.err else _decoded(request, message, offset),
            )


def _decoded(request: Any, message: bytes, offset: int) -> Any:
    return None if isinstance(request, wire.Close) else request.deserialize(message, offset)


def _settle(answer: asyncio.Future[Any], value: Any) -> None:
    if answer.done():
        return
    if isinstance(value, Exception):
        answer.set_exception(value)
    else:
        answer.set_result(value)


class LeanSession:
    """In the place of a `Session`."""

    def __init__(
        self, host: str, port: int, timeout_s: float, notice: Callable[[str | None], None]
    ) -> None:
        self.state = SessionState.CONNECTING
        self.session = 0
        self.timeout_s = timeout_s
        self._address = host, port
        self._notice = notice
        self._wire = Wire(notice)
        self._pinging: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Begin the session."""
        await asyncio.get_running_loop().create_connection(lambda: self._wire, *self._address)
        granted = await self._wire.ask(
            wire.Connect(0, 0, int(1000 * self.timeout_s), 0, bytes(16), read_only=False)
        )
        self.session, self.timeout_s, self.state = (
            granted.session_id,
            granted.time_out / 1000,
            SessionState.CONNECTED,
        )
        self._pinging = asyncio.create_task(self._ping())
        self._notice(None)

    async def _ping(self) -> None:
        while not self._wire.lost.is_set():
            await asyncio.sleep(self.timeout_s / PINGS_PER_TIMEOUT)
            self._wire.ping()
        self.state = SessionState.LOST
        self._notice(None)

    async def get(self, path: str, *, watch: bool = False) -> Znode | None:
        return (await self.get_all([path], watch=watch))[0]

    async def get_all(self, paths: Sequence[str], *, watch: bool = False) -> list[Znode | None]:
        asked = [self._wire.ask(wire.GetData(path, watch)) for path in paths]
        await asyncio.gather(*asked, return_exceptions=True)
        found = [await _found(one) for one in asked]
        for place, path in enumerate(paths):
            while (
                watch
                and found[place] is None
                and await _found(self._wire.ask(wire.Exists(path, watch)))
            ):
                found[place] = await _found(self._wire.ask(wire.GetData(path, watch)))
        return [
            None if one is None else Znode(bytes(one[0]), translation.stat(one[1])) for one in found
        ]

    async def children(self, path: str, *, watch: bool = False) -> tuple[list[str], Stat] | None:
        listed = await _found(self._wire.ask(wire.GetChildren2(path, watch)))
        return None if listed is None else (list(listed[0]), translation.stat(listed[1]))

    async def commit(self, operations: Sequence[Operation], look: str | None = None) -> Committed:
        answers = self._wire.ask(
            wire.Transaction([_encoded(operation) for operation in operations])
        )
        looking = None if look is None else self._wire.ask(wire.Exists(look, watcher=False))
        await asyncio.gather(
            *(one for one in (answers, looking) if one is not None), return_exceptions=True
        )
        zxid = translation.zxid(await answers)
        looked = None if looking is None else await _found(looking)
        return Committed(zxid, None if looked is None else translation.stat(looked))

    async def close(self) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
        with suppress(Disconnected):
            await self._wire.ask(wire.CloseInstance)
        self._wire.close()


async def _found(answer: asyncio.Future[Any]) -> Any:
    """The answer to a reading, `None` where there is no such znode."""
    try:
        return await answer
    except NoNodeError:
        return None


def _encoded(operation: Operation) -> Any:
    match operation:
        case Create(path, data, ephemeral):
            return wire.Create(path, data, OPEN_ACL_UNSAFE, _EPHEMERAL if ephemeral else 0)
        case Write(path, data, version):
            return wire.SetData(path, data, version)
        case Delete(path, version):
            return wire.Delete(path, version)
        case VersionGuard(path, version):
            return wire.CheckVersion(path, version)
