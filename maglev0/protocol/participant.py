"""One node's part in the cluster, from the first look at its members to its leaving.

Pure: imports no I/O. It reaches ZooKeeper and the kernel through ports. Its driver, the daemon or a
simulation, may stop it for any time at every `await`. There are two strands: `round` follows the
view, and `renewal` keeps the lease; they share one `NodeState`.
"""

from __future__ import annotations

import logging
import math

from maglev0.core.view import Member, View
from maglev0.protocol.agreement import Agreement, Unsettled
from maglev0.protocol.handover import HandOver, Phase
from maglev0.protocol.joining import Joining
from maglev0.protocol.lease import Terms
from maglev0.protocol.membership import LeaseZnode, Membership, Seen
from maglev0.protocol.node_state import Environment, NodeState
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.gate import Commit
from maglev0.protocol.renewal import Renewal

log = logging.getLogger(__name__)

# Lengths of a lease after which the znode of a lease that is over is deleted: all members that may
# ask for it have done so.
BURIED_LEASES = 10


class Participant:
    """One node under one VIP.

    Call `round` after every `notice` and `wake`, and again when the time that it returned is up;
    `renewal` beside it.
    """

    def __init__(
        self,
        environment: Environment,
        agreement: Agreement,
        paths: Paths,
        *,
        me: Member,
        total_nodes: int,
        terms: Terms,
    ) -> None:
        self.handover = HandOver(me.id, terms)
        self.node_state = NodeState(me, environment.kernel, environment.pid, self.handover)
        self._membership = Membership(environment.zookeeper, paths, me.id)
        self.joining = Joining(self.node_state, self._membership, agreement, environment)
        self.renewal = Renewal(
            self.node_state, self._membership, agreement, environment, self._take_news
        )
        self._environment = environment
        self._agreement = agreement
        self._paths = paths
        self._total_nodes = total_nodes
        self._seen: Seen | None = None
        self._seen_at = 0.0
        self._view_stale = self._settings_stale = True
        self._stale_acks: set[int] = set()
        self._leases_read = False
        self._settings_version = 0
        self._remains: dict[int, LeaseZnode] = {}  # lease znodes of departed members, read at
        self._remains_at = 0.0

    def notice(self, path: str | None) -> None:
        """Note that a watched znode changed.

        `None`: anything may have changed, because the connection is another or a first one.
        """
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
        self._environment.wake()

    def _take_news(self, *, view: bool) -> None:
        """A renewal brought news: of the lease, or of the view."""
        self._view_stale |= view
        self._environment.wake()

    async def round(self) -> float | None:
        """Do the next step; return in how many seconds to do the one after it, `None` for never.

        `notice` and `wake` make it due earlier. Raises `Disconnected`, `Unsettled`, `Refused` when
        it has to be tried again; MaglevError for what only the operator, or the dataplane's repair,
        can fix.
        """
        node_state = self.node_state
        if self._settings_stale:
            registered = (
                node_state.is_member and node_state.session == self._environment.zookeeper.session
            )
            self._settings_version = await self._agreement.confirm(registered=registered)
            self._settings_stale = False
        seen = await self._look() if self._view_stale or self._seen is None else self._seen
        node = seen.nodes.get(node_state.me.id)
        record = next(
            (member for member in seen.view.members if member.id == node_state.me.id), None
        )
        if node is None:
            return await self._join(seen.view)
        if node.stat.owner != self._environment.zookeeper.session:
            self._view_stale = True
            return await self.joining.wait_for_holder(node, record)
        if not node_state.is_member:
            mine = await self._environment.share(seen.view)
            await self.joining.come_back(node, record, mine, seen.view)
            self._begin()
            self.renewal.soon()
            return 0.0
        if node.stat.version != node_state.record_version or not node.ours:
            self._view_stale = True
            return await self.joining.rejoin()
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
        self._seen_at = self._environment.clock()
        # A view in which this node is no member any more never reaches the hand-over.
        if before is not None:
            self.handover.note_gone(before.view, self._seen.view, self._seen_at)
        return self._seen

    async def _join(self, view: View) -> float | None:
        self._view_stale = True
        if self.node_state.leaving:
            await self.joining.outside()
            return None
        self._settings_stale = not self.node_state.is_member  # joining checks their version
        pause_s = await self.joining.join(view, self._settings_version)
        if self.node_state.is_member:
            self.renewal.soon()
        return pause_s

    async def _advance(self, view: View) -> float | None:
        """One step of the hand-over."""
        handover, node_state = self.handover, self.node_state
        if node_state.me not in view.members:
            if handover.is_unproven(view.id, self._environment.clock()):
                self.renewal.soon()
                return handover.terms.interval_s
            self._view_stale = True
            await self._membership.rewrite(node_state.me, node_state.record_version or 0)
            node_state.rewritten()
            return 0.0
        if handover.view_id != view.id:
            handover.see(view, await self._environment.share(view), self._seen_at)
            self._begin()
        if not self._leases_read:
            await self._read_leases(view)
        if handover.must_empty(self._environment.clock()):
            log.warning(
                "the lease expired before the new view was in force: acquiring all buckets again"
            )
            await self.joining.empty()
            return 0.0
        steps = {
            Phase.SEEN: self._prepare,
            Phase.PREPARED: self._release,
            Phase.RELEASED: self._acquire,
            Phase.ACQUIRED: self._rest,
        }
        return await steps[handover.stage]()

    def _begin(self) -> None:
        self._stale_acks = set(self.handover.peers)
        self._leases_read = False

    async def _read_leases(self, view: View) -> None:
        """Learn when the leases of all departed members are over, seen by this node or not."""
        self._remains = await self.joining.leases(
            {member.id for member in view.members} | {self.node_state.me.id}
        )
        self._remains_at, self._leases_read = self._environment.clock(), True

    async def _prepare(self) -> float:
        await self._environment.gate.stage(self.handover.move)
        self.handover.prepared()
        self.renewal.soon()  # which acknowledges it
        log.debug("prepared for the view of %s", _named(self.handover.view))
        return 0.0

    async def _release(self) -> float:
        await self._read_acks()
        now_s = self._environment.clock()
        if not self.handover.may_release(now_s):
            return self.handover.barrier_at - now_s
        await self._environment.gate.commit(Commit.RELEASE)
        self.handover.released()
        self.renewal.soon()
        self.node_state.keeps(self.handover.move.losses)
        log.debug("released %d buckets", len(self.handover.move.losses))
        return 0.0

    async def _acquire(self) -> float | None:
        await self._read_acks()
        now_s, handover = self._environment.clock(), self.handover
        if handover.move.gains:
            at = handover.may_acquire_at()
            if at > now_s:
                return self._until(at, now_s)
            self.node_state.serves_again(handover.mine)
            await self._environment.gate.commit(Commit.ACQUIRE)
            log.debug("acquired %d buckets", len(handover.move.gains))
        handover.acquired()
        return 0.0

    def _until(self, at: float, now_s: float) -> float | None:
        """How long to wait before the node may acquire.

        Where only a renewal can tell, it asks for one as soon as that can help.
        """
        if at < math.inf:
            return at - now_s
        over_at = self.handover.straggling_until
        if now_s < over_at:
            return over_at - now_s
        if self.handover.confirmed_at < over_at:
            self.renewal.soon()
        return self.handover.terms.interval_s

    async def _read_acks(self) -> None:
        """Read the others' acknowledgements, all at once.

        Not before each that is missing has changed since it was read.
        """
        while (
            wanted := self.handover.awaited()
        ) and self._stale_acks >= wanted:  # again, if some changed while they were being read
            self._stale_acks -= wanted
            try:
                self.handover.heard(await self._membership.acks(sorted(wanted)))
            except BaseException:
                self._stale_acks |= wanted
                raise

    async def _rest(self) -> float | None:
        """Clear away what departed members left; nothing else is left to do for this view.

        The first member does that for all.
        """
        await self._read_acks()
        if not self._remains or any(peer < self.node_state.me.id for peer in self.handover.peers):
            return None
        member = min(self._remains, key=self._clear_at)
        early_s = self._clear_at(member) - self._environment.clock()
        if early_s > 0:
            return early_s
        await self._membership.clear(member, self._remains[member])
        self._leases_read = False
        return 0.0

    def _clear_at(self, member: int) -> float:
        """When to mark a lease as released, or to delete it if it was marked long enough ago.

        That is when all members that may ask for it have done so.
        """
        if self._remains[member].is_released:
            return self._remains_at + BURIED_LEASES * self.handover.terms.length_s
        return self.handover.others.over_at()

    def granted(self, timeout_s: float) -> None:
        """Put the session timeout that the server granted into the next record."""
        self.node_state.granted(timeout_s)

    def wish(self, state: str, weight: int) -> None:
        """Have this node's record say so, as a change of the view like any other."""
        if self.node_state.wish(state, weight):
            self._environment.wake()

    def leave(self) -> None:
        """Give up everything in a hand-over.

        `node_state.is_drained` tells when that is done; `joining.withdraw` ends it.
        """
        self.node_state.leave()
        self._environment.wake()

    async def sweep(self) -> int:
        """Stop keeping buckets without connections; return how many connections live.

        A bucket needs two calls in a row that find no connection in it. Calls must not overlap.
        Raises `DataplaneError` when the kernel does not tell: the number is unknown then, not 0.
        """
        node_state = self.node_state
        node_state.begin_sweep()
        connections = await self._environment.readings.connections()
        empty = node_state.end_sweep(connections.buckets)
        if empty:
            await self._environment.gate.unpin(empty)
            node_state.unpinned(empty)
        return connections.alive


def _named(view: View | None) -> str:
    return "nobody" if view is None else " ".join(str(member.id) for member in view.members)
