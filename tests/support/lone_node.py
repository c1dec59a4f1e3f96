"""One node alone with a tree: what its participant reads and writes, step by step.

The simulation has schedules of many nodes.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from maglev0.core.service import HashFamily
from maglev0.core.settings import Settings, Wishes
from maglev0.core.view import Member, View
from maglev0.protocol.agreement import RESTORE_LOOKS, Agreement, Founder, Unsettled
from maglev0.protocol.lease import terms
from maglev0.protocol.node_state import Environment
from maglev0.protocol.participant import Participant
from maglev0.protocol.paths import Paths
from tests.simulation.tree import Tree
from tests.support.direct import DirectGate, DirectZooKeeper, put, run
from tests.support.members import SOMEONE

PATHS = Paths("/a/maglev0/198.51.100.1")
FAMILIES = (HashFamily.NFTABLES,)
NO_WISH = Wishes(None, None, None, None, FAMILIES)
FOUNDER = Founder(IPv4Address("198.51.100.1"), 4.0, 7)
MINE, OTHERS = 77, 99
ME = replace(SOMEONE, id=1)


class Node:
    """One node on a tree, with a clock of its own."""

    def __init__(
        self, tree: Tree, member: Member = ME, session: int = MINE, kernel: str = "this"
    ) -> None:
        self.tree = tree
        self.now_s = 1000.0
        self.zookeeper = DirectZooKeeper(tree, session)
        self.gate = DirectGate()
        self.agreement = Agreement(self.zookeeper, PATHS)
        host = Environment(
            self.zookeeper,
            self.gate,
            self.gate,
            self.gate,
            lambda: self.now_s,
            self._share,
            lambda: None,
            kernel,
            4711,
        )
        self.part = Participant(
            host, self.agreement, PATHS, me=member, total_nodes=16, terms=terms(2000)
        )

    async def _share(self, view: View) -> frozenset[int]:
        return frozenset(range(1, 17)) if view.members else frozenset()

    def agree(self, wishes: Wishes = NO_WISH, founder: Founder = FOUNDER) -> Settings:
        for _ in range(RESTORE_LOOKS + 3):
            try:
                return run(self.agreement.agree(1, wishes, founder))
            except Unsettled:
                continue
        raise Unsettled

    def rounds(self, count: int = 12) -> float | None:
        pause_s: float | None = 0.0
        for _ in range(count):
            pause_s = run(self.part.round())
            run(self.part.renewal.renew())
        return pause_s


def living(tree: Tree, number: int = 5) -> None:
    """Another member's record, held by another session."""
    put(tree, PATHS.member(number), replace(SOMEONE, id=number).encode(), OTHERS)
