"""How far one node has come in its cluster: one value, for whoever reports it.

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
    """What a node takes part in, and how: `kernel` names its kernel and network namespace, `hold` is --zk-loss=hold."""

    paths: Paths
    settings: Settings
    kernel: str
    hold: bool


class Progress(NamedTuple):
    """How far one node has come, at one instant; times are seconds of CLOCK_MONOTONIC.

    `held` is in force in its kernel as far as it knows, `kept` counts the buckets out of force in which it keeps connections.
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
        """Whether it is a member in its place, and nothing is left to do for the view."""
        return self.is_member and self.stage is Phase.ACQUIRED

    @property
    def is_settled(self) -> bool:
        """Whether it is where the view wants it, under its lease."""
        return self.is_at_rest and self.lease_left_s > 0
