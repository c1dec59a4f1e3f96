"""One node's part in the cluster, from the first look at its members to the last word in its lease.

Pure: imports no I/O. It reaches ZooKeeper and the kernel through two protocols; whoever drives it, the daemon or a simulation, may stop it for any
time at every `await`. There are two strands: `round` follows the view, and `renewal` keeps the lease; they meet in one `Standing`.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from maglev0.core.view import Member, View
from maglev0.protocol.agreement import Agreement, Unsettled
from maglev0.protocol.handover import HandOver, Stage
from maglev0.protocol.joining import Entry
from maglev0.protocol.lease import Terms
from maglev0.protocol.membership import Lease, Membership, Seen
from maglev0.protocol.node_state import Host, Standing
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.kernel import Phase
from maglev0.protocol.renewal import Renewal

log = logging.getLogger(__name__)

BURIED_LEASES = 10  # lengths of a lease after which the znode of one that is over is deleted: all who may ask for it have done so


class Participant:
    """One node under one VIP. Call `round` after every `notice` and `wake`, and again when the time that it returned is up; `renewal` beside it."""

    def __init__(self, host: Host, agreement: Agreement, paths: Paths, *, me: Member, total_nodes: int, terms: Terms) -> None:
        self.handover = HandOver(me.id, terms)
        self.standing = Standing(me, host.kernel, host.pid, self.handover)
        self._membership = Membership(host.zookeeper, paths, me.id)
        self.entry = Entry(self.standing, self._membership, agreement, host)
        self.renewal = Renewal(self.standing, self._membership, agreement, host, self._see_anew)
        self._host = host
        self._agreement = agreement
        self._paths = paths
        self._total_nodes = total_nodes
        self._seen: Seen | None = None
        self._seen_at = 0.0
        self._view_stale = self._settings_stale = True
        self._stale_acks: set[int] = set()
        self._leases_read = False
        self._settings_version = 0
        self._remains: dict[int, Lease] = {}  # lease znodes of who is gone, read at
        self._remains_at = 0.0

    def notice(self, path: str | None) -> None:
        """Note that a watched znode changed, or (`None`) that anything may have: another connection, or a first one."""
        member = None if path is None else self._paths.acknowledging(path)
        if member is not None:
            self._stale_acks.add(member)
            if not self._stale_acks >= self.handover.awaited():
                return
        elif path == self._paths.settings:
            self._settings_stale = True
        elif path is None:
            self._view_stale = self._settings_stale = True
            self._stale_acks |= self.handover.peers
            self.renewal.soon()
        else:
            self._view_stale = True
        self._host.wake()

    def _see_anew(self, *, view: bool) -> None:
        """A renewal brought news: of the lease, or of the view."""
        self._view_stale |= view
        self._host.wake()

    async def round(self) -> float | None:
        """Do the one next thing, and return in how many seconds to do the next without having been told, `None` for never.

        Raises `Disconnected`, `Unsettled`, `Refused` when it has to be tried again; MaglevError for what only the operator, or the dataplane's
        repair, can mend.
        """
        standing = self.standing
        if self._settings_stale:
            registered = standing.is_member and standing.session == self._host.zookeeper.session
            self._settings_version = await self._agreement.confirm(registered=registered)
            self._settings_stale = False
        seen = await self._look() if self._view_stale or self._seen is None else self._seen
        node = seen.nodes.get(standing.me.id)
        record = next((member for member in seen.view.members if member.id == standing.me.id), None)
        if node is None:
            return await self._join(seen.view)
        if node.stat.owner != self._host.zookeeper.session:
            self._view_stale = True
            return await self.entry.wait_for_holder(node, record)
        if not standing.is_member:
            mine = await self._host.share(seen.view)
            await self.entry.come_back(node, record, mine, seen.view)
            self._begin()
            self.renewal.soon()
            return 0.0
        if node.stat.version != standing.record_version or not node.ours:
            self._view_stale = True
            return await self.entry.join_anew()
        return await self._advance(seen.view)

    async def _look(self) -> Seen:
        self._view_stale = False
        before = self._seen
        try:
            self._seen = await self._membership.view(self._total_nodes)
        except BaseException as error:
            self._view_stale = True
            if isinstance(error, Unsettled):
                await self._agreement.ensure_paths()
            raise
        self._seen_at = self._host.clock()
        if before is not None:  # a view in which this node is no member any more never comes to the hand-over
            self.handover.note_gone(before.view, self._seen.view, self._seen_at)
        return self._seen

    async def _join(self, view: View) -> float | None:
        self._view_stale = True
        if self.standing.leaving:
            await self.entry.outside()
            return None
        self._settings_stale = not self.standing.is_member  # whose version the joining checks
        pause_s = await self.entry.join(view, self._settings_version)
        if self.standing.is_member:
            self.renewal.soon()
        return pause_s

    async def _advance(self, view: View) -> float | None:
        """One step of the hand-over."""
        handover, standing = self.handover, self.standing
        if standing.me not in view.members:
            if handover.is_unproven(view.id, self._host.clock()):
                self.renewal.soon()
                return handover.terms.interval_s
            self._view_stale = True
            await self._membership.rewrite(standing.me, standing.record_version or 0)
            standing.record_version = (standing.record_version or 0) + 1
            return 0.0
        if handover.view_id != view.id:
            handover.see(view, await self._host.share(view), self._seen_at)
            self._begin()
        if not self._leases_read:
            await self._read_leases(view)
        if handover.must_empty(self._host.clock()):
            log.warning("the lease was over before the new view was in force: all node numbers are taken anew")
            await self.entry.empty()
            return 0.0
        steps = {Stage.SEEN: self._prepare, Stage.PREPARED: self._release, Stage.RELEASED: self._acquire, Stage.ACQUIRED: self._rest}
        return await steps[handover.stage]()

    def _begin(self) -> None:
        self._stale_acks = set(self.handover.peers)
        self._leases_read = False

    async def _read_leases(self, view: View) -> None:
        """Learn when the leases of all who are no members are over, those included that this node never saw."""
        self._remains = await self.entry.leases({member.id for member in view.members} | {self.standing.me.id})
        self._remains_at, self._leases_read = self._host.clock(), True

    async def _prepare(self) -> float:
        await self._host.gate.load(self.handover.move)
        self.handover.stage = Stage.PREPARED
        self.renewal.soon()  # which acknowledges it
        log.debug("prepared for the view of %s", _named(self.handover.view))
        return 0.0

    async def _release(self) -> float:
        await self._read_acks()
        now_s = self._host.clock()
        if not self.handover.may_release(now_s):
            return self.handover.barrier_at - now_s
        await self._host.gate.flip(Phase.RELEASED)
        self.handover.released()
        self.renewal.soon()
        self.standing.kept |= self.handover.move.losses
        log.debug("released %d node numbers", len(self.handover.move.losses))
        return 0.0

    async def _acquire(self) -> float | None:
        await self._read_acks()
        now_s, handover = self._host.clock(), self.handover
        if handover.move.gains:
            at = handover.may_acquire_at()
            if at > now_s:
                return self._until(at, now_s)
            self.standing.serves_again(handover.mine)
            await self._host.gate.flip(Phase.ACQUIRED)
            log.debug("acquired %d node numbers", len(handover.move.gains))
        handover.acquired()
        return 0.0

    def _until(self, at: float, now_s: float) -> float | None:
        """How long to wait for the permission to acquire; what a renewal has to bring is asked for when it can."""
        if at < math.inf:
            return at - now_s
        over_at = self.handover.straggling_until
        if now_s < over_at:
            return over_at - now_s
        if self.handover.confirmed_at < over_at:
            self.renewal.soon()
        return self.handover.terms.interval_s

    async def _read_acks(self) -> None:
        """Read what the others acknowledged, all at once, as soon as none is missing that has not changed since it was read."""
        while (wanted := self.handover.awaited()) and self._stale_acks >= wanted:  # again, if some changed while they were being read
            self._stale_acks -= wanted
            try:
                self.handover.acks.update(await self._membership.acks(sorted(wanted)))
            except BaseException:
                self._stale_acks |= wanted
                raise

    async def _rest(self) -> float | None:
        """Nothing is left to do for this view but to clear away what is left of who is gone, which the first member does for all."""
        await self._read_acks()
        if not self._remains or any(peer < self.standing.me.id for peer in self.handover.peers):
            return None
        member = min(self._remains, key=self._clear_at)
        early_s = self._clear_at(member) - self._host.clock()
        if early_s > 0:
            return early_s
        await self._membership.clear(member, self._remains[member])
        self._leases_read = False
        return 0.0

    def _clear_at(self, member: int) -> float:
        """When to say of a lease that it is over, or to delete it if that was said long enough ago for all who may ask."""
        if self._remains[member].is_released:
            return self._remains_at + BURIED_LEASES * self.handover.terms.length_s
        return self.handover.others.over_at()

    def tell_session_timeout(self, timeout_s: float) -> None:
        """Put what the server granted into the record that the next joining writes."""
        self.standing.me = replace(self.standing.me, session_timeout_s=timeout_s)

    def wish(self, state: str, weight: int) -> None:
        """Have this node's record say so, as a change of the view like any other."""
        if (self.standing.me.state, self.standing.me.weight) != (state, weight):
            self.standing.me = replace(self.standing.me, state=state, weight=weight)
            self._host.wake()

    def leave(self) -> None:
        """Give up everything by a hand-over; `standing.is_drained` tells when that is done, `entry.withdraw` is the last word."""
        self.standing.leave()
        self._host.wake()

    async def sweep(self) -> int:
        """Stop keeping the buckets in which there was no connection at two looks in a row; return how many connections live."""
        standing = self.standing
        # Only what is out of force during the whole look can have got no connection behind the look's back.
        standing.swept = standing.kept
        flows = await self._host.gate.flows()
        idle = standing.swept - flows.buckets - self.handover.held
        forgotten, standing.idle = idle & standing.idle, idle - standing.idle
        if forgotten:
            await self._host.gate.forget(forgotten)
            standing.kept -= forgotten
        return flows.alive


def _named(view: View | None) -> str:
    return "nobody" if view is None else " ".join(str(member.id) for member in view.members)
