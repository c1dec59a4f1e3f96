"""A ZooKeeper session on an asyncio loop: a thin shell around kazoo.

It implements `protocol.ports.zookeeper.ZooKeeper`. Kazoo's threads only record and wake: every
callback runs on the loop, and every answer is awaited there with a timeout.

With an identity (see `config.zookeeper_access`) every znode that the session creates belongs to
this identity alone, and every znode that it reads says whether that is so.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from kazoo.exceptions import (
    AuthFailedError,
    InvalidACLError,
    NoAuthError,
    NoNodeError,
    ZookeeperError,
)
from kazoo.security import ACL, CREATOR_ALL_ACL, OPEN_ACL_UNSAFE

from maglev0.config.configuration import ZooKeeperAddress
from maglev0.config.zookeeper_access import NOBODY, ZooKeeperAccess
from maglev0.coordination import connection, credentials, refusals, translation
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

# For a znode that is created again or gets another ACL between reading its data and its ACL.
READ_ATTEMPTS = 5
# A daemon that stops is gone within 2 s, whatever ZooKeeper does.
CLOSE_TIMEOUT_S = 1.0


class SessionState(enum.Enum):
    """The state of the session, by kazoo's words; a lost session's ephemeral znodes vanish."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    SUSPENDED = "suspended"
    LOST = "lost"


class Identity(NamedTuple):
    """What resumes a session: its id, its password, and the timeout that its maker asked for."""

    id: int
    password: bytes
    requested_timeout_s: float


class Session:
    """One session that reconnects for ever, on the running loop.

    Call `start`, then the operations of the port, then `close`. `notice` is called on the loop:
    with the path of a watched znode that changed, or with `None` after a change of state. `session`
    is the `ephemeralOwner` of the znodes that the session creates: 0 before the first connection,
    and that of a lost session until there is a new one.
    Every method but `start` and `close` raises ZooKeeperError once the servers have refused this
    node's identity: no session follows then.
    """

    def __init__(
        self,
        address: ZooKeeperAddress,
        timeout_s: float,
        notice: Callable[[str | None], None],
        former: Identity | None = None,
        access: ZooKeeperAccess = NOBODY,
    ) -> None:
        """Prepare a session, which `start` connects.

        `former` is a session to resume; if it has expired, a new one replaces it. Raises
        ConfigError if a file of `access` is unusable.
        """
        self.state = SessionState.CONNECTING
        self.session = 0
        self.on_answer: Callable[[float], None] = _ignore  # gets the seconds that each answer took
        self._changed = asyncio.Event()
        self._requested_timeout_s = timeout_s
        self._notice = notice
        self._loop = asyncio.get_running_loop()
        self._address, self._access = address, access
        self._rights = None if access.identity_scheme is None else AclJudge(access.identity_scheme)
        self._learning = asyncio.Lock()
        self.tls = credentials.tls(access)
        # The chroot is part of our paths, because kazoo creates no chroot of more than one part.
        known = None if former is None else (former.id, former.password)
        self._client = connection.client(address.hosts, timeout_s, access, self.tls, known)

    def start(self) -> None:
        """Begin to connect; `notice` is called when the session is connected."""
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
        """The session timeout that the server granted; before that, the one to ask for."""
        return self._client._connection.granted_timeout_s or self._requested_timeout_s  # noqa: SLF001

    @property
    def identity(self) -> Identity | None:
        """What resumes this session; `None` before there is one."""
        known = self._client.client_id
        return (
            Identity(int(known[0]), bytes(known[1]), self._requested_timeout_s)
            if self.session and known
            else None
        )

    async def get(self, path: str, *, watch: bool = False) -> Znode | None:
        """See `ports.zookeeper.ZooKeeper.get`."""
        return (await self.get_all([path], watch=watch))[0]

    async def get_all(self, paths: Sequence[str], *, watch: bool = False) -> list[Znode | None]:
        """See `ports.zookeeper.ZooKeeper.get_all`."""
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
                # It was created between the two requests.
                found[place] = await self._data(
                    self._client.get_async(path, watch=watcher), path, watcher
                )
        return found

    async def _data(self, result: Any, path: str, watcher: Any) -> Any:
        """Return data and stat, or `None` without such a znode.

        With an identity, the data of a znode that this node may not read is `None`: the znode
        exists, and others made it.
        """
        try:
            return await self._answer(result)
        except NoNodeError:
            return None
        except NoAuthError as error:
            if self._rights is None:
                raise self._no_access(error, path) from error
            stat = await self._found(self._client.exists_async(path, watch=watcher), path)
            return None if stat is None else (None, stat)

    async def _judged(
        self, rights: AclJudge, paths: Sequence[str], *, watch: bool
    ) -> dict[str, Znode | None]:
        """Read these znodes, and the ACLs that are not known yet.

        The result leaves out a znode that changed between the two readings.
        """
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
        """Learn this node's identity from the ACL of a znode that it creates for an instant."""
        async with self._learning:
            for parent in self._ancestors():
                if rights.own:
                    return
                with contextlib.suppress(NoNodeError, NoAuthError):
                    if not rights.learn(await self._probed(parent)):
                        raise refusals.no_identity(self._access)
        if not rights.own:
            raise refusals.no_access(
                self._access, NoAuthError.__name__, self._address.chroot or "/"
            )

    def _ancestors(self) -> Iterator[str]:
        """The znodes above ours, the lowest first: one exists, and this node may create there."""
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
            raise refusals.no_identity(self._access) from error
        return translation.entries(acl)

    async def children(self, path: str, *, watch: bool = False) -> tuple[list[str], Stat] | None:
        """See `ports.zookeeper.ZooKeeper.children`."""
        self._require_connected()
        listed = await self._found(
            self._client.get_children_async(
                path, watch=self._on_watch if watch else None, include_data=True
            ),
            path,
        )
        return None if listed is None else (list(listed[0]), translation.stat(listed[1]))

    async def commit(self, operations: Sequence[Operation], look: str | None = None) -> Committed:
        """See `ports.zookeeper.ZooKeeper.commit`.

        Raises ZooKeeperError for a fault that the operator must fix, such as missing rights.
        """
        self._require_connected()
        if self._rights is not None:
            await self._learn_rights(self._rights)
        session = self.session
        transaction = self._client.transaction()
        for operation in operations:
            translation.add(transaction, operation, self._acl)
        # Both are queued before the first is sent; a broken connection fails both.
        answers, looking = (
            transaction.commit_async(),
            None if look is None else self._client.exists_async(look),
        )
        try:
            answered = await self._answer(answers)
            if (forbidden := translation.no_rights(answered)) is not None:
                raise self._no_access(answered[forbidden], operations[forbidden].path)
            zxid = translation.zxid(answered)
        except (NoAuthError, InvalidACLError) as error:
            raise self._no_access(error, operations[0].path) from error
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
        """End the session, so that ZooKeeper deletes its ephemeral znodes; takes a bounded time."""
        self._client.remove_listener(self._on_state)
        stopped = asyncio.Event()

        def stop() -> None:
            self._client.stop()
            self._client.close()
            self._hand_over(stopped.set)

        # A thread for which the process does not wait: kazoo may wait long for a silent server.
        threading.Thread(target=stop, name="zookeeper-close", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), CLOSE_TIMEOUT_S)

    def _on_state(self, state: str) -> None:
        # Read here, in the thread that changes it: later the connection may be another.
        identity = self._client.client_id
        self._hand_over(
            self._record,
            SessionState(state.lower()),
            int(identity[0]) if identity else self.session,
        )

    def _hand_over(self, callback: Callable[..., None], *arguments: Any) -> None:
        # A watch may still fire in kazoo's thread after the loop is closed.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _record(self, state: SessionState, session: int) -> None:
        self.state = state
        self.session = session
        self._changed.set()
        self._notice(None)

    def _require_connected(self) -> None:
        self._require_admitted()
        # Without a connection kazoo keeps the request, and sends it when its reason may be gone.
        if self.state is not SessionState.CONNECTED:
            raise Disconnected

    def _require_admitted(self) -> None:
        refusal = self._client._connection.refusal  # noqa: SLF001
        if refusal:
            raise refusals.not_admitted(self._access, refusal)

    @property
    def _acl(self) -> list[ACL]:
        """The ACL of every znode that this session creates."""
        if self._rights is None:
            return list(OPEN_ACL_UNSAFE)
        return translation.acl(self._rights.own)

    def _no_access(self, error: Exception, path: str) -> ZooKeeperError:
        return refusals.no_access(self._access, type(error).__name__, path)

    async def _found(self, result: Any, path: str) -> Any:
        """The answer to a read request; `None` if there is no such znode."""
        try:
            return await self._answer(result)
        except NoNodeError:
            return None
        except NoAuthError as error:
            raise self._no_access(error, path) from error

    async def _answer(self, result: Any) -> Any:
        """Await an answer.

        Raises NoNodeError, NoAuthError and InvalidACLError, whose meaning depends on the request;
        Disconnected without an answer in time; ZooKeeperError for every other refusal.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        result.rawlink(partial(self._hand_over, _settle, future))
        asked_s = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await future
            self.on_answer(time.monotonic() - asked_s)
            return answer  # noqa: TRY300  the shortest form
        except (*translation.AWAY, *translation.UNDECODABLE) as error:
            raise Disconnected from error
        except AuthFailedError as error:
            self._require_admitted()
            raise Disconnected from error
        except (NoAuthError, NoNodeError, InvalidACLError):
            raise
        except ZookeeperError as error:
            raise ZooKeeperError(f"using ZooKeeper: {type(error).__name__}: {error}") from error


def _ignore(_seconds: float) -> None:
    """Do nothing with the duration of an answer."""


def _settle(future: asyncio.Future[Any], done: Any) -> None:
    if future.done():
        return
    if done.exception is None:
        future.set_result(done.value)
    else:
        future.set_exception(done.exception)
