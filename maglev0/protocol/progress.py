"""How far one node has come in its cluster: one value for all that report it.

Pure: imports no I/O.
"""

from __future__ import annotations

from typing import NamedTuple

from maglev0.core.assignment import Assignment
from maglev0.core.settings import Settings
from maglev0.core.view import Member, View, ViewId
from maglev0.protocol.handover import Phase
from maglev0.protocol.paths import Paths


class ClusterContext(NamedTuple):
    """The cluster in which a node takes part.

    `kernel` names the node's kernel and network namespace, `hold` is --zk-loss=hold.
    """

    paths: Paths
    settings: Settings
    kernel: str
    hold: bool


class ConnectionCount(NamedTuple):
    """How many TCP connections to the VIP lived on a node's host when they were counted last.

    `under` is the view whose hand-over the node had finished before the count began, `None` if the
    count began in the middle of one. Only a count under the current view holds every connection
    that the node accepted before it gave up buckets for that view.
    """

    alive: int
    under: ViewId | None


class Progress(NamedTuple):
    """How far one node has come at one instant; times are seconds of CLOCK_MONOTONIC.

    `held` is in force in the node's kernel as far as the node knows. `kept` counts the buckets out
    of force in which it keeps connections.
    """

    me: Member
    is_member: bool
    view: View | None
    view_at: float
    obeys: ViewId | None
    stage: Phase
    held: frozenset[int]
    lease_left_s: float
    kept: int
    ownership: Assignment | None

    @property
    def is_at_rest(self) -> bool:
        """Whether the node is a member and has finished the hand-over to the view."""
        return self.is_member and self.stage is Phase.ACQUIRED

    @property
    def is_settled(self) -> bool:
        """Whether the node has the share that the view gives it, under a running lease."""
        return self.is_at_rest and self.lease_left_s > 0
