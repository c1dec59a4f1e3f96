"""Follows the cluster: keeps this node a member, and carries out what each view gives it. Each round looks at the newest state of all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from kazoo.exceptions import NodeExistsError, NoNodeError

from maglev0 import report
from maglev0.errors import DataplaneError, ZooKeeperError
from maglev0.membership import Membership, Unsettled
from maglev0.ownership import Ownership, Standing, decide, standing
from maglev0.upkeep import Upkeep
from maglev0.view import DRY_RUN, MAX_MEMBERS, Member, View
from maglev0.waiting import FIRST_DELAY_S, Backoff, in_thread
from maglev0.zookeeper import Disconnected, Session, State

log = logging.getLogger(__name__)

NOTHING: frozenset[int] = frozenset()
SILENT = "no ZooKeeper server answers"
# Shares of the session timeout. The servers expire a session no earlier than one timeout after they got the last message that they
# answered; kazoo needs two thirds of it to find out that a server is silent, and may then find another.
SERVE_ALONE = 0.9
TIME_STEP = 0.05  # how often a silence is looked at again
HAND_OVER_S = 0.1  # a view reaches all nodes within milliseconds; the rest is for a machine whose cores are all busy
DYING_SESSION = 2  # session timeouts, see `_wait_for_holder`


class Follower:
    """One node's part in the cluster. `round` is called after every wake, and again when the time that it returns is up; `keep_time` runs beside."""

    def __init__(self, session: Session, membership: Membership, upkeep: Upkeep, *, me: Member, total_nodes: int, wake: Callable[[], None]) -> None:
        self._session = session
        self._membership = membership
        self._upkeep = upkeep
        self._me = me
        self._total_nodes = total_nodes
        self._wake = wake
        self._backoff = Backoff()
        self._joined_session = 0
        self._holder_deadline_s: float | None = None  # until when who holds this node's id may be a dying session of its own
        self._ownership: Ownership | None = None
        self._weights: dict[str, int] | None = None
        self._said: tuple[str, ...] = ()

    async def round(self) -> float | None:
        """Act on what is so now; returns in how many seconds to look again without a wake, `None` for never.

        Raises MaglevError for what only the operator can mend.
        """
        try:
            pause_s = await self._act()
        except (Disconnected, Unsettled, NoNodeError):
            return self._backoff.failed()
        except DataplaneError as error:
            log.debug("this round ends: %s", error)
            return self._backoff.failed()
        self._backoff.succeeded()
        return pause_s

    async def _act(self) -> float | None:
        if self._session.state is not State.CONNECTED:
            if self._session.state is State.LOST or self._alone_s <= 0:
                await self._let_go("the ZooKeeper session is lost" if self._session.state is State.LOST else SILENT)
            return None
        if not self._upkeep.able:
            await self._let_go("this node cannot serve")
            await self._membership.withdraw(self._me.id)
            self._joined_session = 0
            return None
        view, sessions = await self._membership.view(self._total_nodes, registered=self._joined_session == self._session.id)
        match standing(sessions, self._me.id, self._session.id):
            case Standing.MEMBER:
                return await self._as_member(view)
            case Standing.ABSENT:
                return await self._join(view)
            case Standing.HELD:
                return await self._wait_for_holder()

    async def _as_member(self, view: View) -> float | None:
        self._holder_deadline_s = None
        self._joined_session = self._session.id
        if self._me not in view.members:
            # Somebody else wrote to our znode: what the others see of this node is not what it said.
            log.warning("the record of %s was changed by another hand: joining anew", self._me.name)
            await self._let_go("this node is not a member")  # first: others take over as soon as the znode is gone
            await self._membership.withdraw(self._me.id)
            return FIRST_DELAY_S
        await self._carry_out(view)
        return None

    async def _join(self, view: View) -> float:
        if len(view.members) >= MAX_MEMBERS and self._me.id > view.members[-1].id:
            raise ZooKeeperError(f"joining as {self._me.name}: the cluster is full, {MAX_MEMBERS} members of lower ids are there")
        await self._let_go("this node is not a member")
        self._me = replace(self._me, session_timeout_s=self._session.timeout_s)  # another server may have granted another one
        try:
            await self._membership.join(self._me)
        except NodeExistsError:
            return FIRST_DELAY_S  # the next round sees whose it is
        self._joined_session = self._session.id
        log.info("joined as %s, session %#x, timeout %.1f s", self._me.name, self._session.id, self._session.timeout_s)
        return 0.0

    async def _wait_for_holder(self) -> float:
        """Give the id's holder the time in which a session of our own, left by a daemon that was killed, would end.

        That is its session timeout and two ticks; a server grants no timeout below two ticks unless told to, so twice the timeout
        covers both.
        """
        owner, member = await self._membership.holder(self._me.id)
        if not owner:
            raise ZooKeeperError(f"{self._membership.path(self._me.id)} is a persistent znode, which no daemon holds: delete it")
        await self._let_go("its id is held by another session")
        who = f"{member.host}, pid {member.pid}" if member else "an unreadable record"
        now_s = asyncio.get_running_loop().time()
        if self._holder_deadline_s is None:
            wait_s = DYING_SESSION * (member.session_timeout_s if member else self._session.timeout_s)
            self._holder_deadline_s = now_s + wait_s
            log.info("id %d is held by session %#x (%s): waiting up to %.1f s in case that is dying", self._me.id, owner, who, wait_s)
        if now_s >= self._holder_deadline_s:
            raise ZooKeeperError(f"id {self._me.id} is held by another live daemon ({who}): stop that one, or give this one another --my-id")
        return self._holder_deadline_s - now_s

    async def keep_time(self) -> None:
        """Let go, for ever, whenever ZooKeeper has been silent for too long: beside `round`, which may just be waiting for an answer."""
        in_time = True
        while True:
            alone_s = self._alone_s
            if in_time and alone_s <= 0:
                await self._let_go(SILENT)
            elif alone_s > 0 and not in_time:
                self._wake()  # it was a pause that broke no connection, so nothing else tells
            in_time = alone_s > 0
            await asyncio.sleep(alone_s if in_time else self._session.timeout_s * TIME_STEP)

    @property
    def _alone_s(self) -> float:
        """For how many seconds this node may still serve without another word from ZooKeeper."""
        return self._session.answered_at + self._session.timeout_s * SERVE_ALONE - asyncio.get_running_loop().time()

    async def _carry_out(self, view: View) -> None:
        weights = view.weights(dry_run=self._me.state == DRY_RUN)
        if self._ownership is None or weights != self._weights:
            # In a thread: a table of a million slots takes seconds, and signals must not wait for it.
            self._ownership = await in_thread(partial(decide, view, self._total_nodes, dry_run=self._me.state == DRY_RUN))
            self._weights = weights
        await self._own(self._ownership.of(self._me.name), report.ownership_lines(self._ownership, self._me.name))

    async def _let_go(self, reason: str) -> None:
        with contextlib.suppress(DataplaneError):  # rules that are gone own nothing, and the mending reports them
            change = await self._upkeep.own(NOTHING)
            if change.removed:
                log.warning("let go of %d node numbers: %s", len(change.removed), reason)
                await self._say(())

    async def _own(self, buckets: frozenset[int], lines: tuple[str, ...]) -> None:
        if self._alone_s <= 0:
            raise Disconnected  # the view is from before the silence
        # What a view takes away goes at once; what it brings comes when the others, who see the same view, have had the time to let it go.
        kept = buckets & self._upkeep.wanted
        changes = [await self._upkeep.own(kept)]
        if kept != buckets:
            await asyncio.sleep(HAND_OVER_S)
            changes.append(await self._upkeep.own(buckets))
        if any(map(any, changes)) or lines != self._said:
            await self._say(lines)

    async def _say(self, lines: tuple[str, ...]) -> None:
        """Print who owns what, if anybody is said to, and what the kernel really has."""
        held = await self._upkeep.owned()
        for line in (*lines, report.kernel_line(self._label, held, self._total_nodes)):
            log.info("%s", line)
        self._said = lines

    @property
    def _label(self) -> str:
        return "DRY-RUN" if self._me.state == DRY_RUN else self._me.dataplane.upper()
