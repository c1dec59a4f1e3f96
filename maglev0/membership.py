"""One node's place in the cluster: settings agreed, its znode kept, the view read.

Layout, all under the connection string's chroot::

    /maglev0/<vip>/settings       what all nodes agree on (JSON)
    /maglev0/<vip>/members        the parent; its stat (czxid, cversion, version) is the view's identity
    /maglev0/<vip>/members/<id>   ephemeral, one member's record (JSON)

Every change of a member is a transaction that also writes the parent, so that one stat tells whether a view is current.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError

from maglev0 import settings as agreed
from maglev0 import view as views
from maglev0.config import ZooKeeperAddress, printable
from maglev0.errors import ConfigError, ZooKeeperError
from maglev0.settings import SEED_LIMIT, Settings, Wishes
from maglev0.view import Child, Ignored, Member, View, ViewId
from maglev0.zookeeper import Disconnected, Session

log = logging.getLogger(__name__)

READ_ATTEMPTS = 10  # a view that changes during ten reads in a row is read again on the next wake
MAX_WARNINGS = 20  # children ignored one by one in one read of the view; more are counted
MAX_NAME = 64  # characters of a foreign child's name that a warning shows
RESTORE_LOOKS = 5  # at settings that a running member may be about to restore: it needs a round trip, a starved machine more
RESTORE_WAIT_S = 0.2  # between two of these looks


class Unsettled(Exception):  # noqa: N818  no error: the caller tries again at the next wake, or after a moment
    """Others are changing what was being read or written; nothing was decided."""


class Found(NamedTuple):
    """The settings znode as read: its value, or `problem` says why there is none; the version to check in transactions; its last change."""

    settings: Settings | None
    problem: str
    version: int
    mzxid: int


class Membership:
    """One node under one VIP. `agree` first; then `join` and `view` as often as the session or the view changes; `withdraw` to leave."""

    def __init__(self, session: Session, address: ZooKeeperAddress, vip: IPv4Address) -> None:
        self._session = session
        self._base = f"{address.chroot}/maglev0/{vip}"
        self._parent = f"{self._base}/members"
        self._settings_path = f"{self._base}/settings"
        self._settings: Settings | None = None
        self._reported: set[Ignored] = set()

    async def agree(self, my_id: int, wishes: Wishes, vip: IPv4Address, lease_ms: int) -> Settings:
        """Find the cluster's settings or found the cluster, before this node runs.

        Raises ConfigError when a flag contradicts the cluster or its settings cannot be read while members live by them; `Disconnected`
        or `Unsettled` when it has to be tried again.
        """
        await self._ensure_paths()
        seed = secrets.randbelow(SEED_LIMIT)
        for attempt in range(READ_ATTEMPTS):
            parent_version, living = await self._living()
            found = await self._read_settings()
            if attempt < RESTORE_LOOKS and _restorable(found, living):
                await asyncio.sleep(RESTORE_WAIT_S)
                continue
            conflict = "" if found is None else found.problem
            if found is not None and found.settings is not None:
                conflict = ", ".join(agreed.contradictions(wishes, found.settings))
                if not conflict:
                    agreed.check_id(my_id, found.settings)
                    self._settings = found.settings
                    return found.settings
            names = ", ".join(child.name for child in living)
            if living and found is not None and found.problem:
                raise ZooKeeperError(f"{found.problem}, and members live by others ({names}): they restore them, or run another version of maglev0")
            if living and conflict:
                raise ConfigError(f"{conflict}: stop the members of {self._base} first ({names}), or give the cluster's values")
            if living:
                break
            wanted = agreed.first_settings(wishes, vip, lease_ms, seed)
            agreed.check_id(my_id, wanted)
            if await self._write_settings(wanted, parent_version, found):
                log.info("%s the cluster's settings under %s", "wrote" if found is None else "replaced", self._base)
        raise Unsettled

    async def join(self, member: Member) -> None:
        """Create this node's member znode, under the settings that it runs with.

        Raises NodeExistsError when the id has a znode already, `Unsettled` when the settings were changed meanwhile.
        """
        await self._ensure_paths()
        settings_version = await self._confirm_settings(registered=False)
        transaction = self._session.transaction()
        transaction.check(self._settings_path, settings_version)
        transaction.create(self.path(member.id), member.encode(), ephemeral=True)
        # The write of the parent makes a concurrent replacement of the settings, which checks that version, fail.
        transaction.set_data(self._parent, b"")
        _raise_first(await self._session.commit(transaction))

    async def withdraw(self, member_id: int) -> None:
        """Delete this node's own member znode; one of another session is left alone."""
        try:
            stat = await self._session.call("exists", self.path(member_id))
            if stat is None or stat.ephemeralOwner != self._session.id:
                return
            transaction = self._session.transaction()
            transaction.delete(self.path(member_id), stat.version)
            transaction.set_data(self._parent, b"")
            _raise_first(await self._session.commit(transaction))
        except NoNodeError:
            return

    async def holder(self, member_id: int) -> tuple[int, Member | None]:
        """Who holds an id: the session (0 = a persistent znode) and its record where that can be read. NoNodeError when nobody does."""
        data, stat = await self._session.call("get", self.path(member_id))
        try:
            return stat.ephemeralOwner, views.decode(str(member_id), data)
        except ValueError:
            return stat.ephemeralOwner, None

    async def view(self, total_nodes: int, *, registered: bool) -> tuple[View, dict[int, int]]:
        """Read the current view and each member's session, watching everything that it was made of.

        `registered` says that this node is a member: then settings that somebody deleted or changed are restored first.
        Raises `Unsettled` when the view kept changing, or the parent was gone; it is there again then.
        """
        await self._confirm_settings(registered=registered)
        try:
            for _attempt in range(READ_ATTEMPTS):
                found = await self._read_view(total_nodes)
                if found is not None:
                    return found
        except NoNodeError:
            await self._ensure_paths()
        raise Unsettled

    async def _read_view(self, total_nodes: int) -> tuple[View, dict[int, int]] | None:
        names, before = await self._session.call("get_children", self._parent, watch=self._session.on_watch, include_data=True)
        _, stat = await self._session.call("get", self._parent, watch=self._session.on_watch)
        children, foreign = await self._children(names, total_nodes)
        after = await self._session.call("exists", self._parent)
        if after is None or not _identity(before) == _identity(stat) == _identity(after) or None in children:
            return None
        present = [child for child in children if child is not None]
        members, ignored = views.read_members(present)
        self._report([*ignored, *(Ignored(name, 0, "it is no member id, or beyond the first 1,024") for name in foreign)])
        return View(_identity(after), members), {int(child.name): child.owner for child in present}

    async def _children(self, names: list[str], total_nodes: int) -> tuple[list[Child | None], list[str]]:
        ids, foreign = views.candidate_ids(names, total_nodes)
        return list(await asyncio.gather(*(self._child(name, self._session.on_watch) for name in ids))), foreign

    async def _child(self, name: str, watch: Callable[[object], None] | None = None) -> Child | None:
        try:
            data, stat = await self._session.call("get", f"{self._parent}/{name}", watch=watch)
        except NoNodeError:
            return None
        return Child(name, data, stat.ephemeralOwner, stat.mzxid)

    async def _confirm_settings(self, *, registered: bool) -> int:
        """See that the settings in ZooKeeper are those that this node runs with, and return their version.

        A member restores them, another node stops.
        """
        if self._settings is None:
            raise ZooKeeperError("joining a cluster whose settings were never read")
        found = await self._read_settings()
        if found is not None and found.settings == self._settings:
            return found.version
        if found is not None and found.settings is not None and not registered:
            changes = ", ".join(agreed.differences(self._settings, found.settings))
            raise ZooKeeperError(f"the cluster's settings changed while this node was away ({changes}): start it again to adopt them")
        await self._ensure_paths()
        parent_version, living = await self._living()
        if found is not None and found.problem and living and not registered:
            raise ZooKeeperError(f"{found.problem}, and others live by them: they run another version of maglev0")
        if await self._write_settings(self._settings, parent_version, found):
            log.warning("somebody deleted or changed %s: restored", self._settings_path)
        raise Unsettled

    async def _read_settings(self) -> Found | None:
        """Read the settings znode, if there is one. Leaves a watch in every case."""
        if await self._session.call("exists", self._settings_path, watch=self._session.on_watch) is None:
            return None
        try:
            data, stat = await self._session.call("get", self._settings_path)
        except NoNodeError:
            return None
        try:
            return Found(agreed.decode(data), "", stat.version, stat.mzxid)
        except ValueError as error:
            return Found(None, f"the settings in {self._settings_path} cannot be read ({error})", stat.version, stat.mzxid)

    async def _write_settings(self, settings: Settings, parent_version: int, found: Found | None) -> bool:
        """Write the settings unless somebody joined since `parent_version`, or wrote since `found`, was read; return whether they were written."""
        transaction = self._session.transaction()
        transaction.check(self._parent, parent_version)
        if found is None:
            transaction.create(self._settings_path, settings.encode())
        else:
            transaction.set_data(self._settings_path, settings.encode(), found.version)
        answers = await self._session.commit(transaction)
        return not any(isinstance(answer, Exception) for answer in answers)

    async def _living(self) -> tuple[int, list[Child]]:
        """Read the parent's version and the ids' znodes that live sessions hold, whatever their data."""
        try:
            names, stat = await self._session.call("get_children", self._parent, include_data=True)
        except NoNodeError as error:
            raise Unsettled from error
        ids, _foreign = views.candidate_ids(names, views.MAX_ID)
        children = await asyncio.gather(*(self._child(name) for name in ids))
        return stat.version, [child for child in children if child is not None and child.owner]

    async def _ensure_paths(self) -> None:
        try:
            await self._session.call("ensure_path", self._parent)
        except NoNodeError as error:
            raise Unsettled from error  # somebody deletes while we create

    def _report(self, ignored: list[Ignored]) -> None:
        news = [child for child in ignored if child not in self._reported]
        for child in news[:MAX_WARNINGS]:
            log.warning("ignored %s/%s: %s", self._parent, printable(child.name[:MAX_NAME]), child.reason)
        if len(news) > MAX_WARNINGS:
            log.warning("ignored %d more children of %s that are no members", len(news) - MAX_WARNINGS, self._parent)
        self._reported = set(ignored)

    def path(self, member_id: int) -> str:
        """The member znode of an id."""
        return f"{self._parent}/{member_id}"


def _raise_first(answers: list[Any]) -> None:
    """Turn a rolled-back transaction into its cause."""
    causes = [answer for answer in answers if isinstance(answer, NodeExistsError | BadVersionError | NoNodeError)]
    for cause in causes:
        if isinstance(cause, NodeExistsError):
            raise cause
        raise Unsettled from cause
    if any(isinstance(answer, Exception) for answer in answers):
        raise Disconnected


def _restorable(found: Found | None, living: list[Child]) -> bool:
    """Whether a member may be about to write the settings that it runs with: they are gone, or younger than a member that joined under others."""
    return any(found is None or child.mzxid < found.mzxid for child in living)


def _identity(stat: Any) -> ViewId:
    return ViewId(stat.czxid, stat.cversion, stat.version)
