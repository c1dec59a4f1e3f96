"""A ZooKeeper session on an asyncio loop: a thin shell around kazoo, which the protocol sees as `znodes.ZooKeeper`.

Kazoo's threads only record and wake: every callback hands over to the loop, and every answer is awaited there with a bound.

With an identity (see `access`) whatever is created belongs to it alone, and whatever is read tells whether it is so.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from kazoo.exceptions import (
    AuthFailedError,
    ConnectionClosedError,
    ConnectionLoss,
    InvalidACLError,
    NoAuthError,
    NoNodeError,
    OperationTimeoutError,
    SessionExpiredError,
    SessionMovedError,
    ZookeeperError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KazooState
from kazoo.security import ACL, CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from maglev0.config.configuration import ZooKeeperAddress
from maglev0.config.zookeeper_access import NOBODY, X509, ZooKeeperAccess
from maglev0.coordination import connection, credentials, translation
from maglev0.coordination.acl import AclEntry, AclJudge
from maglev0.errors import ZooKeeperError
from maglev0.protocol.ports.zookeeper import (
    Committed,
    Disconnected,
    Operation,
    Refused,
    Stat,
    Znode,
)

READ_ATTEMPTS = (
    5  # at a znode that is deleted and created anew, or given another ACL, between two readings
)
CLOSE_TIMEOUT_S = 1.0  # a daemon that was told to stop is gone within 2 s, whatever ZooKeeper does


class SessionState(enum.Enum):
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
_NONSENSE = (
    LookupError,
    RuntimeError,
    ValueError,
    struct.error,
)  # what kazoo raises on answers that it cannot make sense of
_STATES = {
    KazooState.CONNECTED: SessionState.CONNECTED,
    KazooState.SUSPENDED: SessionState.SUSPENDED,
    KazooState.LOST: SessionState.LOST,
}


class Identity(NamedTuple):
    """What takes a session back: its id, its password, and the timeout that was asked for when it was made."""

    id: int
    password: bytes
    requested_timeout_s: float


class Session:
    """One session that reconnects for ever. Made on a running loop; `start`, then the operations of `znodes.ZooKeeper`, then `close`.

    `notice` is called on the loop: with the path of a watched znode that changed, or with `None` after every change of state. `session`, the
    `ephemeralOwner` of what the session creates, is 0 before the first connection, and that of the lost session until there is another.
    Every method but `start` and `close` raises ZooKeeperError once the servers have refused this node's identity: then there is no session more.
    """

    def __init__(
        self,
        address: ZooKeeperAddress,
        timeout_s: float,
        notice: Callable[[str | None], None],
        former: Identity | None = None,
        access: ZooKeeperAccess = NOBODY,
    ) -> None:
        """`former` is a session to take back; when it is over there will be a new one. Raises ConfigError where files of `access` are no good."""
        self.state = SessionState.CONNECTING
        self.session = 0
        self.on_answer: Callable[[float], None] = _nobody  # is told how long each took, in seconds
        self._changed = asyncio.Event()
        self._requested_timeout_s = timeout_s
        self._notice = notice
        self._loop = asyncio.get_running_loop()
        self._address, self._access = address, access
        self._rights = None if access.identity_scheme is None else AclJudge(access.identity_scheme)
        self._learning = asyncio.Lock()
        self.tls = credentials.tls(access)
        # The chroot stands in our paths: kazoo creates no chroot of more than one part.
        known = None if former is None else (former.id, former.password)
        self._client = connection.client(address.hosts, timeout_s, access, self.tls, known)

    def start(self) -> None:
        """Begin to connect; `notice` tells when that succeeds."""
        self._client.add_listener(self._on_state)
        self._client.start_async()

    async def until(self, *states: SessionState) -> None:
        """Return once the session is in one of these states."""
        while self.state not in states:
            self._require_admitted()
            self._changed.clear()
            await self._changed.wait()

    @property
    def timeout_s(self) -> float:
        """The session timeout that the server granted; before it did, the one to ask for."""
        return self._client._connection.granted_timeout_s or self._requested_timeout_s  # noqa: SLF001

    @property
    def identity(self) -> Identity | None:
        """What takes this session back, once there is one."""
        known = self._client.client_id
        return (
            Identity(int(known[0]), bytes(known[1]), self._requested_timeout_s)
            if self.session and known
            else None
        )

    async def get(self, path: str, *, watch: bool = False) -> Znode | None:
        """See `znodes.ZooKeeper.get`."""
        return (await self.get_all([path], watch=watch))[0]

    async def get_all(self, paths: Sequence[str], *, watch: bool = False) -> list[Znode | None]:
        """See `znodes.ZooKeeper.get_all`."""
        self._require_connected()
        if self._rights is None:
            found = await self._read(paths, watch=watch)
            return [None if one is None else translation.node(one) for one in found]
        await self._learn_rights(self._rights)
        nodes: dict[str, Znode | None] = {}
        for _attempt in range(READ_ATTEMPTS):
            nodes |= await self._judged(
                self._rights, [path for path in paths if path not in nodes], watch=watch
            )
            if len(nodes) == len(paths):
                return [nodes[path] for path in paths]
        raise Disconnected

    async def _read(self, paths: Sequence[str], *, watch: bool) -> list[Any]:
        watcher = self._on_watch if watch else None
        asked = [self._client.get_async(path, watch=watcher) for path in paths]
        found = [
            await self._data(result, path, watcher)
            for result, path in zip(asked, paths, strict=True)
        ]
        for place, path in enumerate(paths):
            while (
                watch
                and found[place] is None
                and await self._found(self._client.exists_async(path, watch=watcher), path)
            ):
                found[place] = await self._data(
                    self._client.get_async(path, watch=watcher), path, watcher
                )  # it came meanwhile
        return found

    async def _data(self, result: Any, path: str, watcher: Any) -> Any:
        """Data and stat; with an identity, `None` and the stat of what this node may not read: it is there, and others made it."""
        try:
            return await self._answer(result)
        except NoNodeError:
            return None
        except NoAuthError as error:
            if self._rights is None:
                raise self._refused(error, path) from error
            stat = await self._found(self._client.exists_async(path, watch=watcher), path)
            return None if stat is None else (None, stat)

    async def _judged(
        self, rights: AclJudge, paths: Sequence[str], *, watch: bool
    ) -> dict[str, Znode | None]:
        """Read these, and their ACLs as far as they are not known; left out are those that changed between the two readings."""
        acls = [
            (path, self._client.get_acls_async(path)) for path in paths if not rights.known(path)
        ]
        found = await self._read(paths, watch=watch)
        for path, result in acls:
            with contextlib.suppress(NoNodeError, NoAuthError):
                acl, stat = await self._answer(result)
                rights.judge(path, stat.czxid, stat.aversion, translation.entries(acl))
        nodes: dict[str, Znode | None] = {}
        for path, one in zip(paths, found, strict=True):
            if one is None:
                nodes[path] = None
            elif one[0] is None:
                nodes[path] = translation.node((b"", one[1]), ours=False)
            elif (ours := rights.verdict(path, one[1].czxid, one[1].aversion)) is not None:
                nodes[path] = translation.node(one, ours=ours)
                continue
            rights.forget(path)
        return nodes

    async def _learn_rights(self, rights: AclJudge) -> None:
        """Find out as whom the servers know this node, by the ACL of a znode that it creates for an instant."""
        async with self._learning:
            for parent in self._ancestors():
                if rights.own:
                    return
                with contextlib.suppress(NoNodeError, NoAuthError):
                    if not rights.learn(await self._probed(parent)):
                        raise ZooKeeperError(f"using ZooKeeper: {self._unknown()}")
        if not rights.own:
            raise ZooKeeperError(
                f"using ZooKeeper: NoAuthError: ACLs keep this node out of {self._address.chroot or '/'}: {self._remedy}"
            )

    def _ancestors(self) -> Iterator[str]:
        """The znodes above all of ours, the lowest first: one of them exists, and we may create something there."""
        path = f"{self._address.chroot}/maglev0"
        while path:
            yield path
            path = path.rpartition("/")[0]
        yield ""

    async def _probed(self, parent: str) -> list[AclEntry]:
        probe = f"{parent}/maglev0-{secrets.token_hex(8)}"
        created = self._client.create_async(probe, acl=CREATOR_ALL_ACL, ephemeral=True)
        asked, deleted = self._client.get_acls_async(probe), self._client.delete_async(probe)
        try:
            await self._answer(created)
            acl, _stat = await self._answer(asked)
            await self._answer(deleted)
        except InvalidACLError as error:
            raise ZooKeeperError(f"using ZooKeeper: {self._unknown()}") from error
        return translation.entries(acl)

    async def children(self, path: str, *, watch: bool = False) -> tuple[list[str], Stat] | None:
        """See `znodes.ZooKeeper.children`."""
        self._require_connected()
        listed = await self._found(
            self._client.get_children_async(
                path, watch=self._on_watch if watch else None, include_data=True
            ),
            path,
        )
        return None if listed is None else (list(listed[0]), translation.stat(listed[1]))

    async def commit(self, operations: Sequence[Operation], look: str | None = None) -> Committed:
        """See `znodes.ZooKeeper.commit`. Raises ZooKeeperError for what the operator must mend, such as rights."""
        self._require_connected()
        if self._rights is not None:
            await self._learn_rights(self._rights)
        session = self.session
        transaction = self._client.transaction()
        for operation in operations:
            translation.add(transaction, operation, self._acl)
        # Both are in the queue before the first is sent; a connection that breaks fails all that was asked on it.
        answers, looking = (
            transaction.commit_async(),
            None if look is None else self._client.exists_async(look),
        )
        try:
            answered = await self._answer(answers)
            if (forbidden := translation.no_rights(answered)) is not None:
                raise self._refused(answered[forbidden], operations[forbidden].path)
            zxid = translation.zxid(answered)
        except (NoAuthError, InvalidACLError) as error:
            raise self._refused(error, operations[0].path) from error
        except Refused:
            if look is not None:
                with contextlib.suppress(Disconnected):
                    await self._found(looking, look)
            raise
        looked = None if look is None else await self._found(looking, look)
        if self.session != session:
            raise Disconnected
        return Committed(zxid, None if looked is None else translation.stat(looked))

    def _on_watch(self, event: Any) -> None:
        self._hand_over(self._notice, event.path or None)

    async def close(self) -> None:
        """End the session, so that its ephemeral znodes go at once; bounded, and final."""
        self._client.remove_listener(self._on_state)
        stopped = asyncio.Event()

        def stop() -> None:
            self._client.stop()
            self._client.close()
            self._hand_over(stopped.set)

        # A thread of its own, that the process does not wait for: kazoo may wait long for a server that is silent.
        threading.Thread(target=stop, name="zookeeper-close", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), CLOSE_TIMEOUT_S)

    def _on_state(self, state: str) -> None:
        # Taken here, in the thread that changes it: by the time the loop looks, the connection may be another.
        identity = self._client.client_id
        self._hand_over(
            self._record, _STATES[state], int(identity[0]) if identity else self.session
        )

    def _hand_over(self, callback: Callable[..., None], *arguments: Any) -> None:
        # A watch may still fire in kazoo's thread while the daemon ends and the loop is closed.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _record(self, state: SessionState, session: int) -> None:
        self.state = state
        self.session = session
        self._changed.set()
        self._notice(None)

    def _require_connected(self) -> None:
        self._require_admitted()
        # Without a connection kazoo would keep the request, and send it long after its reason is gone.
        if self.state is not SessionState.CONNECTED:
            raise Disconnected

    def _require_admitted(self) -> None:
        refusal = self._client._connection.refusal  # noqa: SLF001
        if refusal:
            who = f"user {self._access.user}"
            raise ZooKeeperError(
                f"ZooKeeper's servers refuse {who} of --zk-auth ({refusal}): correct the flag, its password's file or the servers"
            )

    @property
    def _acl(self) -> list[ACL]:
        """Of all that is created."""
        if self._rights is None:
            return list(OPEN_ACL_UNSAFE)
        return translation.acl(self._rights.own)

    def _unknown(self) -> str:
        if self._access.identity_scheme == X509:
            return "the servers take no identity from --zk-cert: set ssl.clientAuth=need and authProvider.x509 there, or give --zk-auth"
        return f"the servers know nobody by --zk-auth={self._access.scheme}: configure that there, or use the other scheme"

    @property
    def _remedy(self) -> str:
        if self._access.identity_scheme is None:
            return "give --zk-auth, or another /chroot in --zk"
        flag = "--zk-cert" if self._access.scheme is None else "--zk-auth"
        return f"give the identity of {flag} the rights, correct {flag} (is it the cluster's user and password?), or give another /chroot in --zk"

    def _refused(self, error: Exception, path: str) -> ZooKeeperError:
        return ZooKeeperError(
            f"using ZooKeeper: {type(error).__name__}: an ACL there keeps this node out of {path}: {self._remedy}"
        )

    async def _found(self, result: Any, path: str) -> Any:
        """The answer to a reading, `None` where there is no such znode."""
        try:
            return await self._answer(result)
        except NoNodeError:
            return None
        except NoAuthError as error:
            raise self._refused(error, path) from error

    async def _answer(self, result: Any) -> Any:
        """Await an answer. Raises NoNodeError and NoAuthError, for their meaning depends on what was asked; InvalidACLError where one was given."""
        future: asyncio.Future[Any] = self._loop.create_future()
        result.rawlink(partial(self._hand_over, _settle, future))
        asked_s = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await future
            self.on_answer(time.monotonic() - asked_s)
            return answer  # noqa: TRY300  an answer in time, whatever follows
        except (*_AWAY, *_NONSENSE) as error:
            raise Disconnected from error
        except AuthFailedError as error:
            self._require_admitted()
            raise Disconnected from error
        except (NoAuthError, NoNodeError, InvalidACLError):
            raise
        except ZookeeperError as error:
            raise ZooKeeperError(f"using ZooKeeper: {type(error).__name__}: {error}") from error


def _nobody(_seconds: float) -> None:
    """Nobody asks."""


def _settle(future: asyncio.Future[Any], done: Any) -> None:
    if future.done():
        return
    if done.exception is None:
        future.set_result(done.value)
    else:
        future.set_exception(done.exception)
