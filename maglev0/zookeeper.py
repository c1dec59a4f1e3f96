"""A ZooKeeper session on an asyncio loop: a thin shell around kazoo, which the protocol sees as `znodes.ZooKeeper`.

Kazoo's threads only record and wake: every callback hands over to the loop, and every answer is awaited there with a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import struct
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from kazoo.client import KazooClient, TransactionRequest
from kazoo.exceptions import (
    AuthFailedError,
    BadVersionError,
    ConnectionClosedError,
    ConnectionLoss,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    OperationTimeoutError,
    RolledBackError,
    RuntimeInconsistency,
    SessionExpiredError,
    SessionMovedError,
    ZookeeperError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.connection import ConnectionDropped
from kazoo.protocol.serialization import Connect
from kazoo.protocol.states import KazooState
from kazoo.retry import KazooRetry

from maglev0.config import ZooKeeperAddress
from maglev0.errors import ZooKeeperError
from maglev0.znodes import Check, Committed, Create, Delete, Disconnected, Node, Operation, Reason, Refused, Stat, Write

RECONNECT_DELAY_S = 0.05
MAX_RECONNECT_DELAY_S = 2.0  # how much later than ZooKeeper itself a cluster may come back
CLOSE_TIMEOUT_S = 1.0  # a daemon that was told to stop is gone within 2 s, whatever ZooKeeper does


class State(enum.Enum):
    """Where the session stands. A lost session's ephemeral znodes are gone, or will be."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


_AWAY = (
    ConnectionLoss,
    ConnectionClosedError,
    SessionExpiredError,
    SessionMovedError,
    OperationTimeoutError,
    KazooTimeoutError,
    TimeoutError,
)
_NONSENSE = (LookupError, RuntimeError, ValueError, struct.error)  # what kazoo raises on answers that it cannot make sense of
_STATES = {KazooState.CONNECTED: State.CONNECTED, KazooState.SUSPENDED: State.SUSPENDED, KazooState.LOST: State.LOST}


class Identity(NamedTuple):
    """What takes a session back: its id, its password, and the timeout that was asked for when it was made."""

    id: int
    password: bytes
    requested_timeout_s: float


class Session:
    """One session that reconnects for ever. Made on a running loop; `start`, then the operations of `znodes.ZooKeeper`, then `close`.

    `notice` is called on the loop: with the path of a watched znode that changed, or with `None` after every change of state. `session`, the
    `ephemeralOwner` of what the session creates, is 0 before the first connection, and that of the lost session until there is another.
    """

    def __init__(self, address: ZooKeeperAddress, timeout_s: float, notice: Callable[[str | None], None], former: Identity | None = None) -> None:
        """`former` is a session to take back; when it is over there will be a new one."""
        self.state = State.CONNECTING
        self.session = 0
        self._changed = asyncio.Event()
        self._requested_timeout_s = timeout_s
        self._granted_timeout_s: float | None = None
        self._notice = notice
        self._loop = asyncio.get_running_loop()
        self._client = KazooClient(
            hosts=address.hosts,  # the chroot stands in our paths: kazoo creates no chroot of more than one part
            timeout=timeout_s,
            client_id=None if former is None else (former.id, former.password),
            connection_retry=KazooRetry(max_tries=-1, delay=RECONNECT_DELAY_S, max_delay=MAX_RECONNECT_DELAY_S),
            logger=logging.getLogger("maglev0.kazoo"),
        )

    def start(self) -> None:
        """Begin to connect; `notice` tells when that succeeds."""
        self._listen_in()
        self._client.add_listener(self._on_state)
        self._client.start_async()

    async def until(self, *states: State) -> None:
        """Return once the session is in one of these states."""
        while self.state not in states:
            self._changed.clear()
            await self._changed.wait()

    @property
    def timeout_s(self) -> float:
        """The session timeout that the server granted; before it did, the one to ask for."""
        return self._granted_timeout_s or self._requested_timeout_s

    @property
    def identity(self) -> Identity | None:
        """What takes this session back, once there is one."""
        known = self._client.client_id
        return Identity(int(known[0]), bytes(known[1]), self._requested_timeout_s) if self.session and known else None

    async def get(self, path: str, *, watch: bool = False) -> Node | None:
        """See `znodes.ZooKeeper.get`."""
        return (await self.get_all([path], watch=watch))[0]

    async def get_all(self, paths: Sequence[str], *, watch: bool = False) -> list[Node | None]:
        """See `znodes.ZooKeeper.get_all`."""
        self._require_connected()
        watcher = self._on_watch if watch else None
        asked = [self._client.get_async(path, watch=watcher) for path in paths]
        found = [await self._found(result) for result in asked]
        for place, path in enumerate(paths):
            while watch and found[place] is None and await self._found(self._client.exists_async(path, watch=watcher)):
                found[place] = await self._found(self._client.get_async(path, watch=watcher))  # it came meanwhile
        return [None if one is None else Node(bytes(one[0]), _stat(one[1])) for one in found]

    async def children(self, path: str, *, watch: bool = False) -> tuple[list[str], Stat] | None:
        """See `znodes.ZooKeeper.children`."""
        self._require_connected()
        listed = await self._found(self._client.get_children_async(path, watch=self._on_watch if watch else None, include_data=True))
        return None if listed is None else (list(listed[0]), _stat(listed[1]))

    async def commit(self, operations: Sequence[Operation], look: str | None = None) -> Committed:
        """See `znodes.ZooKeeper.commit`. Raises ZooKeeperError for what the operator must mend, such as rights."""
        self._require_connected()
        session = self.session
        transaction = self._client.transaction()
        for operation in operations:
            _add(transaction, operation)
        # Both are in the queue before the first is sent; a connection that breaks fails all that was asked on it.
        answers, looking = transaction.commit_async(), None if look is None else self._client.exists_async(look)
        try:
            zxid = _zxid(await self._answer(answers))
        except Refused:
            if looking is not None:
                with contextlib.suppress(Disconnected):
                    await self._found(looking)
            raise
        looked = None if looking is None else await self._found(looking)
        if self.session != session:
            raise Disconnected
        return Committed(zxid, None if looked is None else _stat(looked))

    def _on_watch(self, event: Any) -> None:
        self._hand_over(self._notice, event.path or None)

    async def close(self) -> None:
        """End the session, so that its ephemeral znodes go at once; bounded, and final."""
        self._client.remove_listener(self._on_state)
        stopped = asyncio.Event()

        def stop() -> None:
            self._client.stop()
            self._hand_over(stopped.set)

        # A thread of its own, that the process does not wait for: kazoo may wait long for a server that is silent.
        threading.Thread(target=stop, name="zookeeper-close", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), CLOSE_TIMEOUT_S)

    def _listen_in(self) -> None:
        """Note on kazoo's connection what kazoo tells nobody: the timeout that the server granted."""
        connection = self._client._connection  # noqa: SLF001
        invoke, read_socket = connection._invoke, connection._read_socket  # noqa: SLF001

        def invoke_and_note(timeout: float, request: Any, xid: int | None = None) -> Any:
            answer = invoke(timeout, request, xid)
            if isinstance(request, Connect) and answer[0].time_out > 0:
                self._granted_timeout_s = answer[0].time_out / 1000
            return answer

        def read_sense(timeout: float) -> Any:
            try:
                return read_socket(timeout)
            except _NONSENSE as error:
                # An answer that cannot be read, or that nobody asked for, would end kazoo's thread, and the session with it, for good.
                raise ConnectionDropped(f"nonsense from the server: {error!r}") from error

        connection._invoke, connection._read_socket = invoke_and_note, read_sense  # noqa: SLF001

    def _on_state(self, state: str) -> None:
        # Taken here, in the thread that changes it: by the time the loop looks, the connection may be another.
        identity = self._client.client_id
        self._hand_over(self._record, _STATES[state], int(identity[0]) if identity else self.session)

    def _hand_over(self, callback: Callable[..., None], *arguments: Any) -> None:
        # A watch may still fire in kazoo's thread while the daemon ends and the loop is closed.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _record(self, state: State, session: int) -> None:
        self.state = state
        self.session = session
        self._changed.set()
        self._notice(None)

    def _require_connected(self) -> None:
        # Without a connection kazoo would keep the request, and send it long after its reason is gone.
        if self.state is not State.CONNECTED:
            raise Disconnected

    async def _found(self, result: Any) -> Any:
        """The answer to a reading, `None` where there is no such znode."""
        try:
            return await self._answer(result)
        except NoNodeError:
            return None

    async def _answer(self, result: Any) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()
        result.rawlink(partial(self._hand_over, _settle, future))
        try:
            async with asyncio.timeout(self.timeout_s):
                return await future
        except (*_AWAY, *_NONSENSE) as error:
            raise Disconnected from error
        except (NoAuthError, AuthFailedError, InvalidACLError) as error:
            raise _refused(error) from error
        except NoNodeError:
            raise
        except ZookeeperError as error:
            raise ZooKeeperError(f"using ZooKeeper: {type(error).__name__}: {error}") from error


def _settle(future: asyncio.Future[Any], done: Any) -> None:
    if future.done():
        return
    if done.exception is None:
        future.set_result(done.value)
    else:
        future.set_exception(done.exception)


def _stat(found: Any) -> Stat:
    return Stat(found.czxid, found.mzxid, found.pzxid, found.version, found.cversion, found.ephemeralOwner)


def _add(transaction: TransactionRequest, operation: Operation) -> None:
    match operation:
        case Create(path, data, ephemeral):
            transaction.create(path, data, ephemeral=ephemeral)
        case Write(path, data, version):
            transaction.set_data(path, data, version)
        case Delete(path, version):
            transaction.delete(path, version)
        case Check(path, version):
            transaction.check(path, version)


def _zxid(answers: list[Any]) -> int:
    """The zxid of a transaction that took place, as its writes tell it; raises what kept it from taking place."""
    for index, answer in enumerate(answers):
        if isinstance(answer, NoAuthError | InvalidACLError):
            raise _refused(answer) from answer
        if isinstance(answer, NodeExistsError | NoNodeError | BadVersionError):
            reason = Reason(isinstance(answer, NodeExistsError), isinstance(answer, NoNodeError), isinstance(answer, BadVersionError))
            raise Refused(index, reason) from answer
    failures = [answer for answer in answers if isinstance(answer, Exception)]
    for failure in failures:
        if not isinstance(failure, RolledBackError | RuntimeInconsistency):  # those two are of operations that stood beside the one that failed
            raise ZooKeeperError(f"using ZooKeeper: {type(failure).__name__}: {failure}") from failure
    if failures:
        raise Disconnected
    return max((int(answer.mzxid) for answer in answers if hasattr(answer, "mzxid")), default=0)


def _refused(error: Exception) -> ZooKeeperError:
    return ZooKeeperError(
        f"using ZooKeeper: {type(error).__name__}: an ACL there keeps this node out; give it the rights, or another /chroot in --zk"
    )
