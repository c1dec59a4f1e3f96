"""The hand-over: when a node lets go of buckets, and when it may take others.

Pure: imports no I/O. The time is handed in: seconds of this node's own CLOCK_MONOTONIC.

**Why two kernels never accept new flows in one bucket.** A view gives each bucket to one member. Say that node q takes bucket b under view v, and
that p held it before. q takes b only when each other member of v

- (a) acknowledged *released(v)*: it obeys v, in which b is not its own; or
- (b) is a member that has not, but one lease and margin have passed since q saw v, and a renewal of q's own, sent after that, still showed v;
- (c) or is no member of v, and its last lease is over by `lease`'s rule 2, for all ids that ever left a lease znode, known to q or not.

In (a) p will accept in b again only by taking it under a later view w, from q, by these same rules. In (c) p must join again, and joins with
nothing. In (b) p's kernel has stopped by `lease`'s rule 3; what if p then skips v, and obeys a later view w that gives b to p? q's last renewal
that showed v was sent after p's lease had ended, so w came into being later still, and the answer to p's first renewal that showed w came after
that end: the lease of p lapsed. So whoever's lease has lapsed while it changed its view lets go of everything and takes it anew. That is
what `secure` tells: under which view all that is held is this node's alone, whether its lease runs or not.

And q takes nothing before a renewal of its own was worth a lease under v: what it kept is secure then, and what it takes is so from the start.
"""

from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass, field

from maglev0.core.transition import Move
from maglev0.core.view import ACTIVE, DRAINING, DRY_RUN, FAILING, Member, View, ViewId
from maglev0.protocol.lease import Dates, Others, Terms

UNSEEN = 0  # in the place of an id: whoever came and went between two views
NOTHING = Move(frozenset(), frozenset())
_GIVING_UP = (DRAINING, FAILING)
BARRIER_SHARE = (
    1 / 2
)  # of a lease: a quarter may have passed since the last renewal, and the next one, under the new view, needs its time, too


class Phase(enum.IntEnum):
    """How far this node has come with the view that it saw last."""

    SEEN = 0
    PREPARED = 1
    RELEASED = 2
    ACQUIRED = 3


@dataclass(frozen=True)
class Ack:
    """What a member acknowledged last: how far it has come with which view."""

    view: ViewId
    stage: Phase

    def encode(self) -> bytes:
        """The znode's data, JSON."""
        return json.dumps([*self.view, self.stage]).encode()


@dataclass
class HandOver:
    """One node's progress from view to view, and what its kernel holds meanwhile; `me` is its id."""

    me: int
    terms: Terms
    view: View | None = None
    seen_at: float = -math.inf  # when `view` was seen first
    mine: frozenset[int] = frozenset()  # this node's share under `view`
    move: Move = NOTHING  # what the kernel has to change to obey it
    stage: Phase = Phase.SEEN
    held: frozenset[int] = frozenset()  # in force in this kernel
    obeys: ViewId | None = None  # under this view all that is held is mine
    secure: ViewId | None = (
        None  # and under this one nobody else can have taken it while no lease ran
    )
    lease_until: float = -math.inf
    confirmed_at: float = -math.inf  # the latest renewal that showed `view` was sent after this
    unserved: bool = False  # buckets of who is gone wait for their new owners
    acks: dict[int, Ack] = field(default_factory=dict)
    others: Others = field(init=False)
    _staying: frozenset[int] = frozenset()  # what is held and remains this node's
    dates: Dates = field(default_factory=Dates)

    def __post_init__(self) -> None:
        self.others = Others(self.terms)

    def see(self, view: View, mine: frozenset[int], now_s: float) -> None:
        """Take a new view for the current one, and begin anew from what the kernel holds."""
        gone = () if self.view is None else self.note_gone(self.view, view, now_s)
        self.others.forget(frozenset(member.id for member in view.members))
        served = any(member.state in (ACTIVE, FAILING) and member.weight for member in gone)
        self.unserved = served or (self.unserved and self.stage < Phase.ACQUIRED)
        self.view, self.mine, self.seen_at = view, mine, now_s
        self._begin_with(self.held)
        self.confirmed_at = -math.inf
        self.acks = {member: ack for member, ack in self.acks.items() if member in self.peers}

    def note_gone(self, earlier: View, later: View, now_s: float) -> tuple[Member, ...]:
        """Note who may have a lease and is no member any more, those included who came and went unseen; return who was seen."""
        gone = earlier.gone(later)
        for member in gone:
            self.others.unknown(member.id, now_s)
        if not later.follows(earlier):
            self.others.unknown(UNSEEN, now_s)
        return gone

    @property
    def view_id(self) -> ViewId | None:
        """The identity of the view seen last."""
        return None if self.view is None else self.view.id

    @property
    def peers(self) -> frozenset[int]:
        """The members whose acknowledgements count: a node in a dry run has nothing to release, but to another such."""
        if self.view is None:
            return frozenset()
        counted = [member for member in self.view.members if member.id != self.me]
        if self._record is None or self._record.state != DRY_RUN:
            counted = [member for member in counted if member.state != DRY_RUN]
        return frozenset(member.id for member in counted)

    @property
    def _record(self) -> Member | None:
        return (
            None
            if self.view is None
            else next((member for member in self.view.members if member.id == self.me), None)
        )

    def must_empty(self, now_s: float) -> bool:
        """Whether what is held may be another's by now: the lease lapsed before all of it was secure under the view."""
        if self.secure != self.view_id:
            self.secure = None if now_s >= self.lease_until else self.secure
        return bool(self.held) and self.secure is None

    def _begin_with(self, held: frozenset[int]) -> None:
        """Work out beforehand, while nobody waits for it, what is to change: the sets are large."""
        self.held, self.stage = held, Phase.SEEN
        self.move = Move(gains=self.mine - held, losses=held - self.mine)
        self._staying = held & self.mine

    def is_unproven(self, current: ViewId, now_s: float) -> bool:
        """Whether what was adopted under the current view waits for a renewal: only then can it be kept through the next one."""
        return bool(self.held) and self.secure == current and now_s >= self.lease_until

    def may_release(self, now_s: float) -> bool:
        """Whether to go on from PREPARED: nobody waits for it, or all are ready, or one was waited for long enough."""
        nobody_waits = self.unserved or not self.move.losses
        return nobody_waits or now_s >= self.barrier_at or not self.awaited()

    def awaited(self) -> frozenset[int]:
        """The peers that have to come further before this node does.

        Who drains or fails gives up the most, and does so last: the others then have nothing left to do but to take it.
        """
        if self.stage >= Phase.RELEASED:
            return self.lacking(Phase.RELEASED)
        if self.view is None or self._record is None or self._record.state not in _GIVING_UP:
            return self.lacking(Phase.PREPARED)
        staying = frozenset(
            member.id for member in self.view.members if member.state not in _GIVING_UP
        )
        return self.lacking(Phase.PREPARED) | (self.lacking(Phase.RELEASED) & staying)

    @property
    def barrier_at(self) -> float:
        """When waiting for the others' preparation ends."""
        return self.seen_at + BARRIER_SHARE * self.terms.length_s

    def _has_come(self, peer: int, stage: Phase) -> bool:
        ack = self.acks.get(peer)
        return ack is not None and ack.view == self.view_id and ack.stage >= stage

    def lacking(self, stage: Phase) -> frozenset[int]:
        """The peers that have not acknowledged that stage of the view."""
        return frozenset(peer for peer in self.peers if not self._has_come(peer, stage))

    def released(self) -> None:
        """The kernel has let go of everything that is not this node's under the view."""
        self.held = self._staying
        self.obeys = self.view_id
        self.stage = Phase.RELEASED

    def emptied(self) -> None:
        """The kernel holds nothing any more; everything of the view has to be taken anew."""
        self._begin_with(frozenset())

    def may_acquire_at(self) -> float:
        """From when on the gains may come into force: minus infinity for now, infinity where an acknowledgement or a renewal has to come first."""
        if self.secure is None or self.secure != self.view_id:
            return math.inf
        if self.lacking(Phase.RELEASED) and self.confirmed_at < self.straggling_until:
            return math.inf
        return self.others.over_at()

    @property
    def straggling_until(self) -> float:
        """When the lease of a member that still obeys an older view is over."""
        return self.seen_at + self.terms.over_s

    @property
    def is_settled(self) -> bool:
        """Whether this node has its share under the view, and every other member has let go of what is not its own."""
        return self.stage is Phase.ACQUIRED and not self.lacking(Phase.RELEASED)

    def acquired(self) -> None:
        """The kernel has this node's whole share in force."""
        self.held = self.mine
        self.stage = Phase.ACQUIRED

    def may_promote(self, shown: ViewId | None, now_s: float) -> bool:
        """Whether a renewal whose answer is here is worth a lease: it showed the view that is obeyed, and what is held is this node's alone."""
        if shown is None or shown != self.obeys:
            return False
        return not self.held or self.secure == shown or now_s < self.lease_until

    def renewed(self, shown: ViewId, sent_after_s: float) -> None:
        """The lease of a renewal that was worth it is in force; it runs from before the sending."""
        if self.obeys is not None:  # it may have left meanwhile
            self.secure = shown
            self.lease_until = max(self.lease_until, sent_after_s + self.terms.length_s)

    def confirmed(self, shown: ViewId | None, sent_after_s: float) -> None:
        """A renewal, whatever it was worth, showed this view."""
        if shown is not None and shown == self.view_id:
            self.confirmed_at = max(self.confirmed_at, sent_after_s)

    def adopt(self, held: frozenset[int], secure: ViewId | None) -> None:
        """Go on where a daemon of this member ended: `held` is what it left in force, `secure` the view that its last renewal named so.

        Called right after `see`.
        """
        self._begin_with(held)
        if secure is not None and secure == self.view_id and held <= self.mine:
            self.obeys = self.secure = secure
            self.stage = Phase.ACQUIRED if held == self.mine else Phase.SEEN

    def left(self) -> None:
        """No more a member; what is held stays to be emptied."""
        self.obeys = self.secure = None
        self.view, self.stage = None, Phase.SEEN
        self.lease_until = -math.inf
        self.acks = {}
