"""How a node becomes a member, comes back to its place, and ceases to be a member.

Pure: imports no I/O; see `participant`, of whose `round` these are the first steps.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress

from maglev0.core.transition import Move
from maglev0.core.view import DRY_RUN, MAX_MEMBERS, Member, View
from maglev0.errors import DataplaneError, ZooKeeperError
from maglev0.protocol.agreement import Agreement
from maglev0.protocol.membership import LeaseZnode, Membership
from maglev0.protocol.node_state import Environment, NodeState
from maglev0.protocol.ports.gate import Commit
from maglev0.protocol.ports.zookeeper import Refused, Znode

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.1
DYING_SESSION = 2  # session timeouts, see `wait_for_holder`
LEAVE_ATTEMPTS = 5


class Joining:
    """The ways in and out of one node."""

    def __init__(
        self,
        node_state: NodeState,
        membership: Membership,
        agreement: Agreement,
        environment: Environment,
    ) -> None:
        self._state = node_state
        self._membership = membership
        self._agreement = agreement
        self._environment = environment
        self._deadline: float | None = (
            None  # until when who holds this node's id may be a dying session of its own
        )
        self._said = ""

    async def join(self, view: View, settings_version: int) -> float:
        """Create this node's record, once nothing is in force here and no lease of anybody gone runs; returns in how many seconds to go on."""
        node_state = self._state
        me = node_state.me
        if len(view.members) >= MAX_MEMBERS and me.id > view.members[-1].id:
            raise ZooKeeperError(
                f"joining as {me.name}: the cluster is full, {MAX_MEMBERS} members of lower ids are there"
            )
        await self.outside()
        await self._agreement.ensure_paths()
        wait_s, version = await self._leases_s(view)
        if wait_s > 0:
            self._say(f"leases of who is gone may run for another {wait_s:.1f} s: joining then")
            return wait_s
        try:
            await self._membership.join(me, node_state.lease_record(), version, settings_version)
        except Refused:
            return FIRST_DELAY_S  # the next round sees who or what was faster
        self._deadline, self._said = None, ""
        node_state.joined(self._environment.zookeeper.session, version)
        log.info(
            "joined as %s, session %#x, timeout %.1f s",
            me.name,
            self._environment.zookeeper.session,
            me.session_timeout_s,
        )
        return 0.0

    async def _leases_s(self, view: View) -> tuple[float, int | None]:
        """How long leases of who is no member may still run, and the version of this node's own former one.

        Its own, of an earlier life on another kernel, nobody could tell from the new one. The others' it would have to wait for with
        buckets that their owners have let go for it already.
        """
        found = await self.leases({member.id for member in view.members})
        mine = found.get(self._state.me.id)
        return (
            self._state.handover.others.over_at() - self._environment.clock(),
            None if mine is None else mine.stat.version,
        )

    async def leases(self, beside: Collection[int]) -> dict[int, LeaseZnode]:
        """Read the lease znodes of all ids beside those, and note when each is over; one of this very kernel is: nothing is in force there."""
        node_state, handover = self._state, self._state.handover
        found = await self._membership.leases(beside)
        now_s = self._environment.clock()
        for member, lease in found.items():
            emptied = (
                node_state.me.state != DRY_RUN
            )  # a dry run asks nothing of the kernel that a killed daemon left accepting
            ours = (
                emptied
                and member == node_state.me.id
                and lease.record is not None
                and lease.record.kernel == node_state.kernel
            )
            if ours or lease.is_released:
                handover.others.forget(frozenset({member}))
            else:
                date_s = handover.dates.of(lease.stat.mzxid, now_s)
                handover.dates.reached(lease.stat.mzxid, date_s)
                handover.others.last_changed(member, lease.stat.mzxid, date_s)
        return found

    def _say(self, text: str) -> None:
        if not self._said:
            log.info("%s", text)
        self._said = text

    async def outside(self) -> None:
        """Be no member: nothing is in force, whatever was left there by this or an earlier daemon."""
        if self._state.is_member:
            log.warning("%s is no member any more", self._state.me.name)
        self._state.lost()
        await self._let_go()

    async def _let_go(self) -> None:
        """Accept nothing any more: the lease at once, the buckets after it."""
        self._state.handover.lease_dropped()
        await self._environment.lease_timer.drop()
        await self.know_held()
        if self._state.handover.held:
            await self.empty()

    async def know_held(self) -> None:
        """Read what is in force in the kernel, where this process does not know it by itself."""
        if not self._state.held_known:
            self._state.read_back(await self._environment.readings.owned())

    async def empty(self) -> None:
        """Put nothing in force."""
        held = self._state.handover.held
        await self._environment.gate.stage(Move(frozenset(), held))
        await self._environment.gate.commit(Commit.RELEASE)
        self._state.keeps(held)
        self._state.handover.emptied()

    async def wait_for_holder(self, node: Znode, member: Member | None) -> float:
        """Give the id's holder the time in which a session of our own, left by a daemon that was killed, would end.

        That is its session timeout and two ticks; a server grants no timeout below two ticks unless told to, so twice the timeout
        covers both.
        """
        me = self._state.me
        if not node.stat.owner:
            raise ZooKeeperError(
                f"{self._membership.path(me.id)} is a persistent znode, which no daemon holds: delete it"
            )
        await self.outside()
        who = f"{member.host}, pid {member.pid}" if member else "an unreadable record"
        now_s = self._environment.clock()
        if self._deadline is None:
            wait_s = DYING_SESSION * (member.session_timeout_s if member else me.session_timeout_s)
            self._deadline = now_s + wait_s
            log.info(
                "id %d is held by session %#x (%s): waiting up to %.1f s in case that is dying",
                me.id,
                node.stat.owner,
                who,
                wait_s,
            )
        if now_s >= self._deadline:
            raise ZooKeeperError(
                f"id {me.id} is held by another live daemon ({who}): stop that one, or give this one another --my-id"
            )
        return self._deadline - now_s

    async def come_back(
        self, node: Znode, before: Member | None, mine: frozenset[int], view: View
    ) -> None:
        """Go on in a record of this session that an earlier daemon of this host made, or this one before its last answer was lost."""
        node_state, handover = self._state, self._state.handover
        found = await self._membership.lease(node_state.me.id)
        await self.know_held()
        record = None if found is None else found.record
        secure = (
            record.secure if record is not None and record.kernel == node_state.kernel else None
        )
        handover.left()
        handover.see(view, mine, self._environment.clock())
        handover.adopt(handover.held, secure)
        node_state.came_back(node.stat.owner, node.stat.version, before)
        session, held = self._environment.zookeeper.session, len(handover.held)
        log.info(
            "took back the place of %s, session %#x: %d node numbers in force",
            node_state.me.name,
            session,
            held,
        )

    async def join_anew(self) -> float:
        """Somebody else wrote to this node's record: what the others see of it is not what it said."""
        log.warning(
            "the record of %s was changed by another hand: joining anew", self._state.me.name
        )
        await self.withdraw()
        return FIRST_DELAY_S

    async def withdraw(self) -> bool:
        """Be no member any more; nobody need wait where the kernel could be told to accept nothing. Returns whether ZooKeeper has confirmed it."""
        try:
            await self._let_go()
            released = self._state.lease_record(released=True)
        except DataplaneError:
            released = None
        self._state.lost()
        for _attempt in range(LEAVE_ATTEMPTS):
            with suppress(Refused):
                await self._membership.withdraw(released)
                return True
        return False
