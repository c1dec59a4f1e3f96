"""Where one node stands in the cluster: what its record says, and of which versions its znodes are.

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
    """What a node's part stands on: `clock` tells seconds of CLOCK_MONOTONIC, `share` computes this node's share of a view.

    `wake` is called whenever `round` should be; `kernel` names this kernel and network namespace, `pid` this process. `hold` keeps the kernel open
    while ZooKeeper is away, at the price of promise 1.
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
    """What the strands of one node share. `kernel` names its kernel and network namespace, `pid` is this process."""

    me: Member
    kernel: str
    pid: int
    handover: HandOver
    session: int = 0  # which holds this node's record
    record_version: int | None = None  # of that; `None` while it is no member
    lease_version: int | None = None  # of its lease znode; `None` where there is none
    lease_known: bool = False  # whether `lease_version` is what the next renewal has to write over
    acked: Ack | None = None  # what the others know of how far it has come
    held_known: bool = False  # whether `handover.held` is what the kernel has in force
    kept: frozenset[int] = frozenset()  # buckets out of force in which connections are kept
    swept: frozenset[int] = (
        frozenset()
    )  # of those, what was kept ever since the connections are being looked at
    idle: frozenset[int] = frozenset()  # in which the look before found no connection
    leaving: bool = False

    @property
    def is_member(self) -> bool:
        """Whether this process has a record in the cluster."""
        return self.record_version is not None

    @property
    def is_drained(self) -> bool:
        """Whether nobody needs this node for a hand-over any more: all have let go under a view in which it drains, or it is no member."""
        if not self.leaving or not self.is_member or self.me.state == DRY_RUN:
            return self.leaving
        view = self.handover.view
        return view is not None and self.me in view.members and self.handover.is_settled

    def leave(self) -> None:
        """Want to be no member any more; who serves gives everything up by a hand-over first."""
        self.leaving = True
        self.me = replace(self.me, state=self.me.state if self.me.state == DRY_RUN else DRAINING)

    def lease_record(self, *, released: bool = False) -> LeaseRecord:
        """What this node writes into its lease; a kernel that nothing is asked of accepts nothing."""
        return LeaseRecord(
            self.kernel, self.pid, self.handover.secure, released or self.me.state == DRY_RUN
        )

    def owed_ack(self) -> Ack | None:
        """What this node has yet to tell the others of how far it has come; that it has taken its share is nobody's concern."""
        view, stage = self.handover.view_id, min(self.handover.stage, Phase.RELEASED)
        if view is None or stage is Phase.SEEN:
            return None
        told = self.acked is not None and self.acked.view == view and self.acked.stage >= stage
        return None if told else Ack(view, stage)

    def serves_again(self, buckets: frozenset[int]) -> None:
        """These are about to come into force: what they hold needs no keeping any more."""
        self.kept -= buckets
        self.swept -= buckets
        self.idle -= buckets

    def lost(self) -> None:
        """Be no member any more."""
        self.record_version = None
        self.lease_known = False
        self.acked = None
        self.handover.left()
