"""A ZooKeeper session on an asyncio loop: a thin shell around kazoo.

Kazoo's threads only record and wake: every callback hands over to the loop, and every answer is awaited there with a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooClient, TransactionRequest
from kazoo.exceptions import (
    AuthFailedError,
    ConnectionClosedError,
    ConnectionLoss,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    OperationTimeoutError,
    SessionExpiredError,
    SessionMovedError,
    ZookeeperError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.connection import PING_XID, WATCH_XID, ConnectionDropped
from kazoo.protocol.serialization import Connect
from kazoo.protocol.states import KazooState
from kazoo.retry import KazooRetry

from maglev0.config import ZooKeeperAddress
from maglev0.errors import ZooKeeperError

RECONNECT_DELAY_S = 0.05
MAX_RECONNECT_DELAY_S = 2.0  # how much later than ZooKeeper itself a cluster may come back
CLOSE_TIMEOUT_S = 1.0  # a daemon that was told to stop is gone within 2 s, whatever ZooKeeper does


class Disconnected(Exception):  # noqa: N818  no error: the session is away and the caller waits for it
    """The session is not connected, or did not answer in time; whether the operation took place is unknown."""


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


class Session:
    """One session that reconnects for ever. Made on a running loop; `start`, then `call` and `commit`, then `close`.

    `wake` is called on the loop, without arguments, after every change of state and every watch that fires. `id`, the `ephemeralOwner` of
    what the session creates, is 0 before the first connection, and that of the lost session until there is another. `answered_at` is the
    loop's time at which the last message that a server has answered was sent.
    """

    def __init__(self, address: ZooKeeperAddress, timeout_s: float, wake: Callable[[], None]) -> None:
        self.state = State.CONNECTING
        self.id = 0
        self._changed = asyncio.Event()
        self._requested_timeout_s = timeout_s
        self._granted_timeout_s: float | None = None
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self.answered_at = self._loop.time()
        self._client = KazooClient(
            hosts=address.hosts,  # the chroot stands in our paths: kazoo creates no chroot of more than one part
            timeout=timeout_s,
            connection_retry=KazooRetry(max_tries=-1, delay=RECONNECT_DELAY_S, max_delay=MAX_RECONNECT_DELAY_S),
            logger=logging.getLogger("maglev0.kazoo"),
        )

    def start(self) -> None:
        """Begin to connect; the loop is woken when that succeeds."""
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

    async def call(self, operation: str, *arguments: Any, **options: Any) -> Any:
        """Run one of kazoo's operations ("get", "exists", "get_children", …) and return its answer.

        Raises `Disconnected`; kazoo's NoNodeError and NodeExistsError; ZooKeeperError for what the operator must mend, such as rights.
        """
        self._require_connected()
        return await self._answer(getattr(self._client, f"{operation}_async")(*arguments, **options))

    def transaction(self) -> TransactionRequest:
        """Begin a transaction to hand to `commit`."""
        return self._client.transaction()

    async def commit(self, transaction: TransactionRequest) -> list[Any]:
        """Commit, and return the answers in order: a value each, or kazoo exceptions when none of it took place."""
        self._require_connected()
        answers = await self._answer(transaction.commit_async())
        for answer in answers:
            if isinstance(answer, NoAuthError | InvalidACLError):
                raise _refused(answer) from answer
        return list(answers)

    def on_watch(self, _event: object) -> None:
        """Be the watch function to give to operations: whatever changed, the loop looks again."""
        self._hand_over(self._wake)

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
        """Note on kazoo's connection what kazoo tells nobody: the timeout that the server granted, and which message it answered last.

        A watch's event answers nothing: the server may send such for as long as the session lives, and hear nothing from us.
        """
        connection = self._client._connection  # noqa: SLF001
        submit, invoke = connection._submit, connection._invoke  # noqa: SLF001
        read_header, read_socket = connection._read_header, connection._read_socket  # noqa: SLF001
        unanswered: dict[bool, deque[float]] = {False: deque(), True: deque()}  # by whether it is a ping; each kind is answered in order

        def note_and_submit(request: Any, timeout: float, xid: int | None = None) -> None:
            unanswered[xid == PING_XID].append(self._loop.time())
            submit(request, timeout, xid)

        def invoke_and_note(timeout: float, request: Any, xid: int | None = None) -> Any:
            if not isinstance(request, Connect):
                return invoke(timeout, request, xid)
            for times in unanswered.values():
                times.clear()  # of an earlier connection
            answer = invoke(timeout, request, xid)
            if answer[0].time_out > 0:
                self._granted_timeout_s = answer[0].time_out / 1000
                self.answered_at = unanswered[False].popleft()
            return answer

        def read_header_and_note(timeout: float) -> Any:
            answer = read_header(timeout)
            times = unanswered[answer[0].xid == PING_XID]
            if answer[0].xid != WATCH_XID and times:
                self.answered_at = max(self.answered_at, times.popleft())
            return answer

        def read_sense(timeout: float) -> Any:
            try:
                return read_socket(timeout)
            except _NONSENSE as error:
                # An answer that cannot be read, or that nobody asked for, would end kazoo's thread, and the session with it, for good.
                raise ConnectionDropped(f"nonsense from the server: {error!r}") from error

        connection._submit, connection._invoke = note_and_submit, invoke_and_note  # noqa: SLF001
        connection._read_header, connection._read_socket = read_header_and_note, read_sense  # noqa: SLF001

    def _on_state(self, state: str) -> None:
        # Taken here, in the thread that changes it: by the time the loop looks, the connection may be another.
        identity = self._client.client_id
        self._hand_over(self._record, _STATES[state], int(identity[0]) if identity else self.id)

    def _hand_over(self, callback: Callable[..., None], *arguments: Any) -> None:
        # A watch may still fire in kazoo's thread while the daemon ends and the loop is closed.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _record(self, state: State, session_id: int) -> None:
        self.state = state
        self.id = session_id
        self._changed.set()
        self._wake()

    def _require_connected(self) -> None:
        # Kazoo would queue the request and send it whenever a server is back, which may be after its reason is gone.
        if self.state is not State.CONNECTED:
            raise Disconnected

    async def _answer(self, result: Any) -> Any:
        future: asyncio.Future[Any] = self._loop.create_future()
        result.rawlink(lambda done: self._hand_over(_settle, future, done))
        try:
            async with asyncio.timeout(self.timeout_s):
                return await future
        except (*_AWAY, *_NONSENSE) as error:
            raise Disconnected from error
        except (NoAuthError, AuthFailedError, InvalidACLError) as error:
            raise _refused(error) from error
        except (NoNodeError, NodeExistsError):
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


def _refused(error: Exception) -> ZooKeeperError:
    return ZooKeeperError(
        f"using ZooKeeper: {type(error).__name__}: an ACL there keeps this node out; give it the rights, or another /chroot in --zk"
    )
