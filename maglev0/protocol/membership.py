"""One node's znodes: record, acknowledgement and lease, and what it reads of the others'.

Pure: imports no I/O; it reads and writes through `ports.zookeeper.ZooKeeper`. The layout is in
`paths`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from maglev0.core import view as views
from maglev0.core.settings import read_int, read_object, read_text
from maglev0.core.text import printable
from maglev0.core.view import Child, Ignored, Member, View, ViewId
from maglev0.protocol.agreement import Unsettled
from maglev0.protocol.handover import Ack, Phase
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import (
    Create,
    Delete,
    Operation,
    Refused,
    Stat,
    VersionGuard,
    Write,
    Znode,
    ZooKeeper,
)

log = logging.getLogger(__name__)

READ_ATTEMPTS = 10  # a view that changes during ten reads in a row is read again on the next wake
MAX_WARNINGS = 20  # children ignored one by one in one read of the view; more are counted
MAX_NAME = 64  # characters of a foreign child's name that a warning shows
MAX_SMALL_BYTES = 1024  # of an acknowledgement or a lease, which are some 100 bytes
MAX_KERNEL = 64  # characters of a kernel's name, which are 57 at most
_ZXID_LIMIT = 1 << 63
_VERSION_LIMIT = 1 << 31


class Seen(NamedTuple):
    """A view as read, and the znodes that it was made of, by member id."""

    view: View
    nodes: dict[int, Znode]


class LeaseRecord(NamedTuple):
    """What a member writes with each renewal.

    `kernel` names the kernel and the network namespace that the lease is for; `pid` is the process
    that wrote it. `secure` is the view under which all that this kernel holds was the member's
    alone before this renewal. `released`: the kernel accepts nothing any more.
    """

    kernel: str
    pid: int
    secure: ViewId | None
    released: bool = False

    def encode(self) -> bytes:
        """The znode's data, JSON."""
        return json.dumps(self._asdict()).encode()


class LeaseZnode(NamedTuple):
    """A lease znode as read.

    `record` is `None` where it cannot be understood: then only its stat is known.
    """

    record: LeaseRecord | None
    stat: Stat

    @property
    def is_released(self) -> bool:
        """Whether its kernel is known to accept nothing any more."""
        return self.record is not None and self.record.released


class Membership:
    """The znodes of the node `me` in the cluster at `paths`.

    The caller knows which of them exist.
    """

    def __init__(self, zookeeper: ZooKeeper, paths: Paths, me: int) -> None:
        self._zookeeper = zookeeper
        self._paths = paths
        self._me = me
        self._reported: set[Ignored] = set()
        # Records that are not ours: name and creation, and the view in which they were first seen.
        self._foreign: dict[tuple[str, int], ViewId] = {}

    def path(self, member: int) -> str:
        """Where a member's record lies."""
        return self._paths.member(member)

    async def view(self, total_nodes: int) -> Seen:
        """Read the current view; watches on all that changes it are left.

        Raises `Unsettled` when it kept changing, or the parent is gone.
        """
        for _attempt in range(READ_ATTEMPTS):
            found = await self._read_view(total_nodes)
            if found is not None:
                return found
        raise Unsettled

    async def _read_view(self, total_nodes: int) -> Seen | None:
        listed = await self._zookeeper.children(self._paths.members, watch=True)
        if listed is None:
            raise Unsettled
        names, before = listed
        ids, foreign = views.candidate_ids(names, total_nodes)
        nodes = await self._zookeeper.get_all([f"{self._paths.members}/{name}" for name in ids])
        parent = await self._zookeeper.get(self._paths.members, watch=True)
        if parent is None or view_id(before) != view_id(parent.stat):
            return None
        present = {name: node for name, node in zip(ids, nodes, strict=True) if node is not None}
        if (
            len(present) < len(ids)
            or await self._touched(parent.stat, present.values())
            or await self._estranged(parent.stat, present)
        ):
            return None
        members, ignored = views.read_members(
            Child(name, node.data, node.stat.owner, node.stat.mzxid, node.ours)
            for name, node in present.items()
        )
        self._report(
            [
                *ignored,
                *(Ignored(name, 0, views.NO_CANDIDATE) for name in foreign),
            ]
        )
        children = frozenset(
            [
                *((name, node.stat.czxid) for name, node in present.items()),
                *((name, 0) for name in foreign),
            ]
        )
        return Seen(
            View(view_id(parent.stat), members, children),
            {int(name): node for name, node in present.items()},
        )

    async def _touched(self, parent: Stat, nodes: Collection[Znode]) -> bool:
        """Whether somebody changed a record without the parent.

        Two nodes could then read different members under one identity. Writing the parent gives the
        change its place in the order, and every node another view.
        """
        if all(node.stat.mzxid <= max(parent.mzxid, parent.pzxid) for node in nodes):
            return False
        with suppress(Refused):
            await self._zookeeper.commit([Write(self._paths.members, b"", parent.version)])
        return True

    async def _estranged(self, parent: Stat, nodes: Mapping[str, Znode]) -> bool:
        """Whether a record is not ours that may have been ours when this view began.

        A change of an ACL has no place in ZooKeeper's order: under one identity of the view one
        node could still count that member, and another not. Writing the parent makes a view under
        which nobody counts it, because what is not ours never is ours again.
        """
        seen = view_id(parent)
        self._foreign = {
            (name, node.stat.czxid): self._foreign.get((name, node.stat.czxid), seen)
            for name, node in nodes.items()
            if not node.ours
        }
        if seen not in self._foreign.values():
            return False
        with suppress(Refused):
            await self._zookeeper.commit([Write(self._paths.members, b"", parent.version)])
        return True

    def _report(self, ignored: list[Ignored]) -> None:
        news = [child for child in ignored if child not in self._reported]
        for child in news[:MAX_WARNINGS]:
            log.warning(
                "ignored %s/%s: %s",
                self._paths.members,
                printable(child.name[:MAX_NAME]),
                child.reason,
            )
        if len(news) > MAX_WARNINGS:
            log.warning(
                "ignored %d more children of %s that are no members",
                len(news) - MAX_WARNINGS,
                self._paths.members,
            )
        self._reported = set(ignored)

    async def join(
        self, member: Member, lease: LeaseRecord, lease_version: int | None, settings_version: int
    ) -> None:
        """Create the record and the acknowledgement, and write the lease, in one transaction.

        It writes over that version of the lease, under the settings of that version. Raises
        `Refused` when the id has a record already or anything else changed meanwhile.
        """
        operations: list[Operation] = [VersionGuard(self._paths.settings, settings_version)]
        if (ack := await self._zookeeper.get(self._paths.ack(self._me))) is not None:
            operations.append(
                Delete(self._paths.ack(self._me), ack.stat.version)
            )  # of another session, whose record is gone
        operations += [
            Create(self._paths.member(self._me), member.encode(), ephemeral=True),
            Create(self._paths.ack(self._me), b"", ephemeral=True),
            self._write_lease(lease, lease_version),
            # A concurrent replacement of the settings checks the parent's version, so it fails.
            Write(self._paths.members, b"", -1),
        ]
        await self._zookeeper.commit(operations)

    def _write_lease(self, lease: LeaseRecord, version: int | None) -> Operation:
        path = self._paths.lease(self._me)
        return (
            Create(path, lease.encode(), ephemeral=False)
            if version is None
            else Write(path, lease.encode(), version)
        )

    async def rewrite(self, member: Member, version: int) -> None:
        """Replace this node's record of that version, as a change that makes a new view.

        Raises `Refused` when it is not there or of another version.
        """
        await self._zookeeper.commit(
            [
                Write(self._paths.member(self._me), member.encode(), version),
                Write(self._paths.members, b"", -1),
            ]
        )

    async def withdraw(self, released: LeaseRecord | None) -> None:
        """Delete this node's record if it is of this session, and its acknowledgement.

        `released` says that its kernel accepts nothing any more. Raises `Refused` when something
        changed meanwhile.
        """
        node = await self._zookeeper.get(self._paths.member(self._me))
        if node is None or node.stat.owner != self._zookeeper.session:
            return
        operations: list[Operation] = [Delete(self._paths.member(self._me), node.stat.version)]
        ack = await self._zookeeper.get(self._paths.ack(self._me))
        if ack is not None and ack.stat.owner == self._zookeeper.session:
            operations.append(Delete(self._paths.ack(self._me), ack.stat.version))
        if released is not None:
            found = await self._zookeeper.get(self._paths.lease(self._me))
            operations.append(
                self._write_lease(released, None if found is None else found.stat.version)
            )
        await self._zookeeper.commit([*operations, Write(self._paths.members, b"", -1)])

    async def acks(self, members: Sequence[int]) -> dict[int, Ack]:
        """Read what these members acknowledged; watches on all acknowledgements are left."""
        nodes = await self._zookeeper.get_all(
            [self._paths.ack(member) for member in members], watch=True
        )
        found = {
            member: decode_ack(node.data)
            for member, node in zip(members, nodes, strict=True)
            if node is not None and node.ours
        }
        return {member: ack for member, ack in found.items() if ack is not None}

    async def renew(
        self, lease: LeaseRecord, record_version: int, lease_version: int | None, ack: Ack | None
    ) -> tuple[int, ViewId | None]:
        """Write the lease, and with it the acknowledgement if there is one.

        The node's record must be of that version, and its lease znode of that one (`None`: there is
        none). Returns the write's zxid (0 where it created the znode) and the view's identity that
        was read right after it, `None` where the parent is gone. Raises `Refused`: index 0 is the
        record, 1 the lease, 2 the acknowledgement.
        """
        operations = [
            VersionGuard(self._paths.member(self._me), record_version),
            self._write_lease(lease, lease_version),
        ]
        if ack is not None:
            operations.append(Write(self._paths.ack(self._me), ack.encode(), -1))
        done = await self._zookeeper.commit(operations, look=self._paths.members)
        return done.zxid, None if done.looked is None else view_id(done.looked)

    async def restore_ack(self) -> None:
        """Create this node's acknowledgement again after somebody deleted it."""
        with suppress(Refused):
            await self._zookeeper.commit([Create(self._paths.ack(self._me), b"", ephemeral=True)])

    async def lease(self, member: int) -> LeaseZnode | None:
        """Read a lease znode."""
        return _lease(await self._zookeeper.get(self._paths.lease(member)))

    async def leases(self, beside: Collection[int]) -> dict[int, LeaseZnode]:
        """Read the lease znodes of all ids except those."""
        listed = await self._zookeeper.children(self._paths.leases)
        if listed is None:
            return {}
        ids = [
            int(name)
            for name in views.candidate_ids(listed[0], views.MAX_ID)[0]
            if int(name) not in beside
        ]
        nodes = await self._zookeeper.get_all([self._paths.lease(member) for member in ids])
        found = {member: _lease(node) for member, node in zip(ids, nodes, strict=True)}
        return {member: lease for member, lease in found.items() if lease is not None}

    async def clear(self, member: int, lease: LeaseZnode) -> None:
        """Mark the lease of a departed member as released, or delete it if it is marked.

        Does nothing if it changed since it was read.
        """
        path, version = self._paths.lease(member), lease.stat.version
        over = (lease.record or LeaseRecord("", 1, None))._replace(released=True)
        with suppress(Refused):
            await self._zookeeper.commit(
                [
                    Delete(path, version)
                    if lease.is_released
                    else Write(path, over.encode(), version)
                ]
            )


def view_id(stat: Stat) -> ViewId:
    """The identity of the view that the parent's stat stands for."""
    return ViewId(stat.czxid, stat.cversion, stat.version)


def _lease(node: Znode | None) -> LeaseZnode | None:
    return (
        None
        if node is None
        else LeaseZnode(decode_lease(node.data) if node.ours else None, node.stat)
    )


def decode_lease(data: bytes) -> LeaseRecord | None:
    """What a lease znode contains; `None` where it makes no sense. Anybody may have written it."""
    try:
        record = _read_small(data)
        secure = record.get("secure")
        return LeaseRecord(
            read_text(record, "kernel", MAX_KERNEL),
            read_int(record, "pid", 1, 1 << 22),
            None if secure is None else _read_view_id(secure),
            record.get("released") is True,
        )
    except ValueError:
        return None


def decode_ack(data: bytes) -> Ack | None:
    """What an acknowledgement contains; `None` where it cannot be understood.

    It may come from anybody.
    """
    try:
        record = json.loads(data) if len(data) <= MAX_SMALL_BYTES else None
        if not isinstance(record, list) or len(record) != 4 or type(record[3]) is not int:
            return None
        return Ack(_read_view_id(record[:3]), Phase(record[3]))
    except (ValueError, RecursionError):
        return None


def _read_small(data: bytes) -> dict[str, object]:
    if len(data) > MAX_SMALL_BYTES:
        raise ValueError("too long")
    return read_object(data)


def _read_view_id(value: object) -> ViewId:
    """A view's identity from JSON; ValueError where it is none."""
    limits = (_ZXID_LIMIT, _VERSION_LIMIT, _VERSION_LIMIT)
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(type(n) is int and -m <= n < m for n, m in zip(value, limits, strict=True))
    ):
        raise ValueError("no identity of a view")
    return ViewId(*value)
