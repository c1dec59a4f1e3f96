"""How a node becomes a member, comes back to its record, and stops being a member.

Pure: imports no I/O. These are the first steps of `Participant.round`.
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
        # Until when the holder of this node's id may be a dying session of its own.
        self._deadline: float | None = None
        self._logged = ""

    async def join(self, view: View, settings_version: int) -> float:
        """Create this node's record, once no lease of a departed member runs.

        Nothing is in force here then. Returns in how many seconds the caller goes on. Raises
        ZooKeeperError where the cluster is full, and `Disconnected`.
        """
        node_state = self._state
        me = node_state.me
        if len(view.members) >= MAX_MEMBERS and me.id > view.members[-1].id:
            raise ZooKeeperError(
                f"cannot join as {me.name}: the cluster is full, "
                f"there are {MAX_MEMBERS} members of lower ids"
            )
        await self.outside()
        await self._agreement.ensure_paths()
        wait_s, version = await self._leases_s(view)
        if wait_s > 0:
            self._log_once(
                f"joining in {wait_s:.1f} s: leases of departed members may still be running"
            )
            return wait_s
        try:
            await self._membership.join(me, node_state.lease_record(), version, settings_version)
        except Refused:
            return FIRST_DELAY_S  # the next round sees what changed meanwhile
        self._deadline, self._logged = None, ""
        node_state.joined(self._environment.zookeeper.session, version)
        log.info(
            "joined as %s, session %#x, timeout %.1f s",
            me.name,
            self._environment.zookeeper.session,
            me.session_timeout_s,
        )
        return 0.0

    async def _leases_s(self, view: View) -> tuple[float, int | None]:
        """How long departed members' leases may still run, and the version of this node's own.

        Nobody could tell this node's own former lease, of an earlier life on another kernel, from
        the new one. For the others' leases it would have to wait later, with buckets that their
        owners have already released for it.
        """
        found = await self.leases({member.id for member in view.members})
        mine = found.get(self._state.me.id)
        return (
            self._state.handover.others.over_at() - self._environment.clock(),
            None if mine is None else mine.stat.version,
        )

    async def leases(self, beside: Collection[int]) -> dict[int, LeaseZnode]:
        """Read the lease znodes of all ids except those, and note when each is over.

        A lease of this very kernel is over: nothing is in force here.
        """
        node_state, handover = self._state, self._state.handover
        found = await self._membership.leases(beside)
        now_s = self._environment.clock()
        for member, lease in found.items():
            # A node in a dry run does not empty a kernel that a killed daemon left accepting.
            emptied = node_state.me.state != DRY_RUN
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

    def _log_once(self, text: str) -> None:
        if not self._logged:
            log.info("%s", text)
        self._logged = text

    async def outside(self) -> None:
        """Be no member, and have nothing in force, whether this or an earlier daemon left it."""
        if self._state.is_member:
            log.warning("%s is no member any more: releasing all buckets", self._state.me.name)
        self._state.lost()
        await self._let_go()

    async def _let_go(self) -> None:
        """End the lease at once, then take all buckets out of force."""
        self._state.handover.lease_dropped()
        await self._environment.lease_timer.drop()
        await self.know_held()
        if self._state.handover.held:
            await self.empty()

    async def know_held(self) -> None:
        """Read what is in force from the kernel, unless this process knows it."""
        if not self._state.held_known:
            self._state.read_back(await self._environment.readings.owned())

    async def empty(self) -> None:
        """Take all buckets out of force."""
        held = self._state.handover.held
        await self._environment.gate.stage(Move(frozenset(), held))
        await self._environment.gate.commit(Commit.RELEASE)
        self._state.keeps(held)
        self._state.handover.emptied()

    async def wait_for_holder(self, node: Znode, member: Member | None) -> float:
        """Wait for the holder of this node's id, in case it is a dying session of its own.

        A daemon that was killed leaves such a session. It ends after its timeout and two ticks. A
        server grants no timeout below two ticks unless told to, so twice the timeout covers both.
        Returns in how many seconds to look again. Raises ZooKeeperError when the time is over.
        """
        me = self._state.me
        if not node.stat.owner:
            raise ZooKeeperError(
                f"{self._membership.path(me.id)} is a persistent znode, which no daemon holds: "
                "delete it"
            )
        await self.outside()
        who = f"{member.host}, pid {member.pid}" if member else "an unreadable record"
        now_s = self._environment.clock()
        if self._deadline is None:
            wait_s = DYING_SESSION * (member.session_timeout_s if member else me.session_timeout_s)
            self._deadline = now_s + wait_s
            log.info(
                "id %d is held by session %#x (%s): waiting up to %.1f s for its expiry",
                me.id,
                node.stat.owner,
                who,
                wait_s,
            )
        if now_s >= self._deadline:
            raise ZooKeeperError(
                f"id {me.id} is held by another live daemon ({who}): "
                "stop that one, or give this one another --my-id"
            )
        return self._deadline - now_s

    async def come_back(
        self, node: Znode, before: Member | None, mine: frozenset[int], view: View
    ) -> None:
        """Go on in a record of this session.

        An earlier daemon of this host created it, or this one before its last answer was lost.
        """
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
            "resumed as %s, session %#x: %d buckets in force",
            node_state.me.name,
            session,
            held,
        )

    async def rejoin(self) -> float:
        """Leave and join again: somebody else changed this node's record."""
        log.warning("somebody else changed the record of %s: joining again", self._state.me.name)
        await self.withdraw()
        return FIRST_DELAY_S

    async def withdraw(self) -> bool:
        """Stop being a member; return whether ZooKeeper has confirmed it.

        Nobody has to wait for this node's lease where its kernel could be told to accept nothing.
        Raises `Disconnected`.
        """
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
