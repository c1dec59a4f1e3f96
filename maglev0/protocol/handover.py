"""The hand-over: when a node releases buckets, and when it may acquire others.

Pure: imports no I/O. The caller hands in the time: seconds of this node's own CLOCK_MONOTONIC.

**Why two kernels never accept new flows in one bucket.** A view gives each bucket to one member.
Say that node q takes bucket b under view v, and that p held it before. q takes b only when each
other member of v

- (a) acknowledged *released(v)*: it obeys v, in which b is not its own; or
- (b) is a member that has not, but one lease and margin have passed since q saw v, and a renewal of
  q's own, sent after that, still showed v;
- (c) or is no member of v, and its last lease is over by `lease`'s rule 2. That covers all ids that
  ever left a lease znode, known to q or not.

In (a) p accepts in b again only after it takes b under a later view w, from q, by these same rules.
In (c) p must join again, and joins with nothing. In (b) p's kernel has stopped by `lease`'s rule 3.
What if p then skips v, and obeys a later view w that gives b to p? q's last renewal that showed v
was sent after p's lease had ended, so w came into being later still, and the answer to p's first
renewal that showed w came after that end: the lease of p lapsed. So a node whose lease lapsed while
it changed its view releases everything and acquires it again. `secure` names the view under which
all that is held is this node's alone, whether its lease runs or not.

And q takes nothing before a renewal of its own was worth a lease under v: from then on what it kept
is secure, and what it takes is secure from the start.

**The phases of one view** are the state machine in `TRANSITIONS`:

    SEEN --stage--> PREPARED --release--> RELEASED --acquire--> ACQUIRED
    SEEN --adopt--> ACQUIRED
    any phase --begin--> SEEN       a new view, nothing held any more, or no member any more

- *stage*: the kernel has gains and losses beside what is in force. The node acknowledges PREPARED.
  If a fast loser did not wait for that, it would release long before a slow winner is ready.
- *release*: the kernel has only what is this node's under the view. `may_release` says when: all
  awaited members are prepared, nobody waits, or the barrier is over. The node acknowledges
  RELEASED.
- *acquire*: the kernel has the whole share. `may_acquire_at` says when: by (a), (b) and (c).
- *adopt*: the kernel has the whole share already, left by an earlier daemon of this member.
- *begin*: a newer view starts the procedure again from what the kernel holds now.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from maglev0.core.transition import Move
from maglev0.core.view import ACTIVE, DRAINING, DRY_RUN, FAILING, Member, View, ViewId
from maglev0.protocol.lease import Dates, Others, Terms

UNSEEN = 0  # in the place of an id: members that came and went between two views
NOTHING = Move(frozenset(), frozenset())
_GIVING_UP = (DRAINING, FAILING)
# Of a lease: a quarter may have passed since the last renewal, and the next one, under the new
# view, needs its time, too.
BARRIER_SHARE = 1 / 2


class Phase(enum.IntEnum):
    """How far this node has come with the view that it saw last."""

    SEEN = 0
    PREPARED = 1
    RELEASED = 2
    ACQUIRED = 3


class Step(enum.Enum):
    """What leads from one phase to another."""

    BEGIN = "begin"
    STAGE = "stage"
    RELEASE = "release"
    ACQUIRE = "acquire"
    ADOPT = "adopt"


TRANSITIONS: Mapping[tuple[Phase, Step], Phase] = {
    **{(phase, Step.BEGIN): Phase.SEEN for phase in Phase},
    (Phase.SEEN, Step.STAGE): Phase.PREPARED,
    (Phase.PREPARED, Step.RELEASE): Phase.RELEASED,
    (Phase.RELEASED, Step.ACQUIRE): Phase.ACQUIRED,
    (Phase.SEEN, Step.ADOPT): Phase.ACQUIRED,
}
"""All transitions; any other step in a phase is an error in this program."""


@dataclass(frozen=True)
class Ack:
    """A member's latest acknowledgement: how far it has come with which view."""

    view: ViewId
    stage: Phase

    def encode(self) -> bytes:
        """The znode's data, JSON."""
        return json.dumps([*self.view, self.stage]).encode()


@dataclass
class HandOver:
    """One node's progress from view to view, and what its kernel holds meanwhile.

    `me` is its id. Others read the fields; only the methods write them.

    `move` is computed from what the kernel holds, not from a `Transition` of two tables: views are
    skipped, and no table is built while somebody waits for the hand-over.
    """

    me: int
    terms: Terms
    view: View | None = None
    seen_at: float = -math.inf  # when `view` was seen first
    mine: frozenset[int] = frozenset()  # this node's share under `view`
    move: Move = NOTHING  # what the kernel has to change to obey it
    stage: Phase = Phase.SEEN
    held: frozenset[int] = frozenset()  # in force in this kernel
    obeys: ViewId | None = None  # under this view all that is held is this node's
    secure: ViewId | None = (
        None  # under this one nobody else can have taken it without a lease here
    )
    lease_until: float = -math.inf
    drops: int = 0  # how often the lease was ended here
    confirmed_at: float = -math.inf  # the latest renewal that showed `view` was sent after this
    unserved: bool = False  # buckets of members that are gone wait for their new owners
    acks: dict[int, Ack] = field(default_factory=dict)
    others: Others = field(init=False)
    _staying: frozenset[int] = frozenset()  # what is held and remains this node's
    dates: Dates = field(default_factory=Dates)

    def __post_init__(self) -> None:
        self.others = Others(self.terms)

    def _go(self, step: Step) -> None:
        """Take a step of the state machine."""
        self.stage = TRANSITIONS[self.stage, step]

    def see(self, view: View, mine: frozenset[int], now_s: float) -> None:
        """Take a new view for the current one, and begin again from what the kernel holds."""
        gone = () if self.view is None else self.note_gone(self.view, view, now_s)
        self.others.forget(frozenset(member.id for member in view.members))
        served = any(member.state in (ACTIVE, FAILING) and member.weight for member in gone)
        self.unserved = served or (self.unserved and self.stage < Phase.ACQUIRED)
        self.view, self.mine, self.seen_at = view, mine, now_s
        self._begin_with(self.held)
        self.confirmed_at = -math.inf
        self.acks = {member: ack for member, ack in self.acks.items() if member in self.peers}

    def note_gone(self, earlier: View, later: View, now_s: float) -> tuple[Member, ...]:
        """Note all members that may have a lease and are gone; return those that were seen.

        That includes members that came and went between the two views.
        """
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
        """The members whose acknowledgements count.

        A node in a dry run has nothing to release, except for another node in a dry run.
        """
        if self.view is None:
            return frozenset()
        counted = [member for member in self.view.members if member.id != self.me]
        record = self._record_in(self.view)
        if record is None or record.state != DRY_RUN:
            counted = [member for member in counted if member.state != DRY_RUN]
        return frozenset(member.id for member in counted)

    def _record_in(self, view: View) -> Member | None:
        return next((member for member in view.members if member.id == self.me), None)

    def must_empty(self, now_s: float) -> bool:
        """Whether another node may own by now what is held here.

        That is so when the lease lapsed before all of it was secure under the view.
        """
        if self.secure != self.view_id:
            self.secure = None if now_s >= self.lease_until else self.secure
        return bool(self.held) and self.secure is None

    def _begin_with(self, held: frozenset[int]) -> None:
        """Compute beforehand, while nobody waits for it, what is to change: the sets are large."""
        self.held = held
        self._go(Step.BEGIN)
        self.move = Move.between(held, self.mine)
        self._staying = held & self.mine

    def is_unproven(self, current: ViewId, now_s: float) -> bool:
        """Whether what was adopted under the current view waits for a renewal.

        Only after that renewal can it be kept through the next view.
        """
        return bool(self.held) and self.secure == current and now_s >= self.lease_until

    def prepared(self) -> None:
        """The kernel has the move beside what is in force."""
        self._go(Step.STAGE)

    def heard(self, acks: Mapping[int, Ack]) -> None:
        """Take what these members acknowledged."""
        self.acks.update(acks)

    def may_release(self, now_s: float) -> bool:
        """Whether to go on from PREPARED.

        Yes when nobody waits for it, when all awaited members are ready, or after the barrier.
        """
        nobody_waits = self.unserved or not self.move.losses
        return nobody_waits or now_s >= self.barrier_at or not self.awaited()

    def awaited(self) -> frozenset[int]:
        """The peers that have to come further before this node does.

        A node that drains or fails gives up the most, and releases last: then all that is left for
        the others is to acquire.
        """
        if self.stage >= Phase.RELEASED:
            return self.lacking(Phase.RELEASED)
        record = None if self.view is None else self._record_in(self.view)
        if self.view is None or record is None or record.state not in _GIVING_UP:
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
        """The peers that have not acknowledged that phase of the view."""
        return frozenset(peer for peer in self.peers if not self._has_come(peer, stage))

    def released(self) -> None:
        """The kernel has released everything that is not this node's under the view."""
        self._go(Step.RELEASE)
        self.held = self._staying
        self.obeys = self.view_id

    def emptied(self) -> None:
        """The kernel holds nothing any more; the node has to acquire all of its share again."""
        self._begin_with(frozenset())

    def read_back(self, held: frozenset[int]) -> None:
        """The kernel has these in force, by its own word."""
        self.held = held

    def may_acquire_at(self) -> float:
        """From when on the gains may come into force.

        Minus infinity is now; infinity: an acknowledgement or a renewal has to come first.
        """
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
        """Whether this node has its share, and every other member released what is not its own."""
        return self.stage is Phase.ACQUIRED and not self.lacking(Phase.RELEASED)

    def acquired(self) -> None:
        """The kernel has this node's whole share in force."""
        self._go(Step.ACQUIRE)
        self.held = self.mine

    def may_promote(self, shown: ViewId | None, now_s: float) -> bool:
        """Whether a renewal whose answer is here is worth a lease.

        It is when it showed the view that is obeyed, and what is held is this node's alone.
        """
        if shown is None or shown != self.obeys:
            return False
        return not self.held or self.secure == shown or now_s < self.lease_until

    def renewed(self, shown: ViewId, sent_after_s: float) -> None:
        """The lease of a renewal that was worth it is in force; it runs from before the sending."""
        if self.obeys is not None:  # the node may have left meanwhile
            self.secure = shown
            self.lease_until = max(self.lease_until, sent_after_s + self.terms.length_s)

    def lease_dropped(self) -> None:
        """The kernel has no lease any more."""
        self.drops += 1
        self.lease_until = -math.inf

    def confirmed(self, shown: ViewId | None, sent_after_s: float) -> None:
        """A renewal, whether it was worth a lease or not, showed this view."""
        if shown is not None and shown == self.view_id:
            self.confirmed_at = max(self.confirmed_at, sent_after_s)

    def adopt(self, held: frozenset[int], secure: ViewId | None) -> None:
        """Go on where a daemon of this member ended.

        `held` is what it left in force, `secure` the view that its last renewal named so. Call it
        right after `see`.
        """
        self._begin_with(held)
        if secure is not None and secure == self.view_id and held <= self.mine:
            self.obeys = self.secure = secure
            if held == self.mine:
                self._go(Step.ADOPT)

    def left(self) -> None:
        """The node is no member any more; what is held is still to be emptied."""
        self._go(Step.BEGIN)
        self.obeys = self.secure = self.view = None
        self.lease_until = -math.inf
        self.acks = {}
