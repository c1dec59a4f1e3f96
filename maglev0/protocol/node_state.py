"""One node's place in the cluster: what its record says, and the versions of its znodes.

Pure: imports no I/O.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from maglev0.core.view import DRAINING, DRY_RUN, Member, View
from maglev0.protocol.handover import Ack, HandOver, Phase
from maglev0.protocol.membership import LeaseRecord
from maglev0.protocol.ports.gate import Gate
from maglev0.protocol.ports.lease_timer import LeaseTimer
from maglev0.protocol.ports.readings import Readings
from maglev0.protocol.ports.zookeeper import ZooKeeper


class Environment(NamedTuple):
    """What a node's part in the cluster needs from outside.

    `clock` returns seconds of CLOCK_MONOTONIC, `share` computes this node's share of a view. `wake`
    is called whenever `Participant.round` should be. `kernel` names this kernel and network
    namespace, `pid` this process. `hold` keeps the kernel accepting while ZooKeeper is away
    (--zk-loss=hold): then two nodes may accept new flows in one bucket (manual: how-it-works,
    Promises).
    """

    zookeeper: ZooKeeper
    gate: Gate
    lease_timer: LeaseTimer
    readings: Readings
    clock: Callable[[], float]
    share: Callable[[View], Awaitable[frozenset[int]]]
    wake: Callable[[], None]
    kernel: str
    pid: int
    hold: bool = False


@dataclass
class NodeState:
    """What the strands of one node share.

    `kernel` names its kernel and network namespace, `pid` is this process. Others read the fields;
    only the methods write them.
    """

    me: Member
    kernel: str
    pid: int
    handover: HandOver
    session: int = 0  # holds this node's record
    record_version: int | None = None  # of the record; `None` while the node is no member
    lease_version: int | None = None  # of its lease znode; `None` where there is none
    lease_known: bool = False  # whether `lease_version` is what the next renewal writes over
    acked: Ack | None = None  # what the others know of how far it has come
    held_known: bool = False  # whether `handover.held` is what the kernel has in force
    kept: frozenset[int] = frozenset()  # buckets out of force in which connections are kept
    swept: frozenset[int] = frozenset()  # of those, what was kept throughout the present look
    idle: frozenset[int] = frozenset()  # those in which the look before found no connection
    leaving: bool = False

    @property
    def is_member(self) -> bool:
        """Whether this process has a record in the cluster."""
        return self.record_version is not None

    @property
    def is_drained(self) -> bool:
        """Whether no hand-over needs this node any more.

        That is so when all have released under a view in which it drains, or when it is no member.
        """
        if not self.leaving or not self.is_member or self.me.state == DRY_RUN:
            return self.leaving
        view = self.handover.view
        return view is not None and self.me in view.members and self.handover.is_settled

    # What the record says.

    def wish(self, state: str, weight: int) -> bool:
        """Have the record say so; return whether that is a change."""
        changes = (self.me.state, self.me.weight) != (state, weight)
        self.me = replace(self.me, state=state, weight=weight)
        return changes

    def granted(self, session_timeout_s: float) -> None:
        """ZooKeeper granted this session timeout."""
        self.me = replace(self.me, session_timeout_s=session_timeout_s)

    def leave(self) -> None:
        """Stop being a member; a node that serves gives everything up in a hand-over first."""
        self.leaving = True
        self.me = replace(self.me, state=self.me.state if self.me.state == DRY_RUN else DRAINING)

    # Membership and lease.

    def joined(self, session: int, lease_version: int | None) -> None:
        """The node created its record in that session, and wrote over that version of its lease."""
        self.session, self.record_version = session, 0
        self._lease_written(lease_version)

    def came_back(self, session: int, record_version: int, record: Member | None) -> None:
        """The node goes on in a record that an earlier daemon created in that session."""
        self.session, self.record_version = session, record_version
        self.lease_known = False
        if record is not None:
            self.me = replace(self.me, pid=record.pid, start_time=record.start_time)

    def rewritten(self) -> None:
        """The node wrote its record once more."""
        self.record_version = (self.record_version or 0) + 1

    def lost(self) -> None:
        """The node is no member any more."""
        self.record_version = None
        self.lease_known = False
        self.acked = None
        self.handover.left()

    def renewed(self, over_version: int | None, ack: Ack | None) -> None:
        """A renewal wrote over that version of the lease, with this acknowledgement if any."""
        self.acked = ack or self.acked
        self._lease_written(over_version)

    def _lease_written(self, over_version: int | None) -> None:
        self.lease_known, self.lease_version = (
            True,
            0 if over_version is None else over_version + 1,
        )

    def lease_read(self, version: int | None) -> None:
        """The lease znode has that version; `None`: there is none."""
        self.lease_known, self.lease_version = True, version

    def lease_unsure(self) -> None:
        """The version of the lease znode has to be read before the next renewal."""
        self.lease_known = False

    def lease_record(self, *, released: bool = False) -> LeaseRecord:
        """What this node writes into its lease; in a dry run its kernel accepts nothing."""
        return LeaseRecord(
            self.kernel, self.pid, self.handover.secure, released or self.me.state == DRY_RUN
        )

    def owed_ack(self) -> Ack | None:
        """What this node has yet to acknowledge; that it acquired its share interests nobody."""
        view, stage = self.handover.view_id, min(self.handover.stage, Phase.RELEASED)
        if view is None or stage is Phase.SEEN:
            return None
        is_known = self.acked is not None and self.acked.view == view and self.acked.stage >= stage
        return None if is_known else Ack(view, stage)

    # What the kernel has.

    def read_back(self, held: frozenset[int]) -> None:
        """The kernel has these buckets in force, by its own word."""
        self.handover.read_back(held)
        self.held_known = True

    def held_unsure(self) -> None:
        """What is in force has to be read back from the kernel before it counts again."""
        self.held_known = False

    def keeps(self, buckets: frozenset[int]) -> None:
        """Connections in these buckets are kept from now on, beside those kept already."""
        self.kept |= buckets

    def serves_again(self, buckets: frozenset[int]) -> None:
        """These are about to come into force: their connections need no keeping any more."""
        self.kept -= buckets
        self.swept -= buckets
        self.idle -= buckets

    def begin_sweep(self) -> None:
        """A look at the connections begins.

        Only what is out of force throughout the look cannot get a connection unseen by it.
        """
        self.swept = self.kept

    def end_sweep(self, occupied: frozenset[int]) -> frozenset[int]:
        """The look found connections in these; return the kept buckets with none in two looks."""
        idle = self.swept - occupied - self.handover.held
        twice, self.idle = idle & self.idle, idle - self.idle
        return twice

    def unpinned(self, buckets: frozenset[int]) -> None:
        """The kernel keeps no connections in these any more."""
        self.kept -= buckets
