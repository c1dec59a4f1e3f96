"""A cluster in which everybody else has always finished the hand-over.

One node does its own part, and waits for nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import cast

from maglev0.coordination.session import Session, SessionState
from maglev0.core.settings import Settings
from maglev0.core.view import ViewId
from maglev0.daemon.node_driver import NodeDriver
from maglev0.daemon.reconciler import Reconciler
from maglev0.protocol.agreement import Agreement, Unsettled
from maglev0.protocol.handover import Ack, Phase
from maglev0.protocol.membership import LeaseRecord, view_id
from maglev0.protocol.ports.zookeeper import Create, Delete, Operation, Stat, Write, Znode
from maglev0.protocol.progress import ClusterContext
from tests.simulation.tree import Tree
from tests.support.direct import DirectZooKeeper, commit
from tests.support.lone_node import FOUNDER, ME, MINE, NO_WISH, OTHERS, PATHS


class AtOnce(DirectZooKeeper):
    """Answers at once, in the place of a `Session`.

    The others have acknowledged every view, and members that left have given their leases back.
    """

    state = SessionState.CONNECTED
    timeout_s = 4.0

    async def get_all(self, paths: Sequence[str], *, watch: bool = False) -> list[Znode | None]:
        others = {path for path in paths if PATHS.acknowledging(path) not in (None, ME.id)}
        released = Ack(self.view, Phase.RELEASED).encode()
        return [
            Znode(released, Stat(0, 0, 0, 0, 0, OTHERS))
            if path in others
            else await self.get(path, watch=watch)
            for path in paths
        ]

    @property
    def view(self) -> ViewId:
        return view_id(self.tree.nodes[PATHS.members].stat)


class Through:
    """The node `ME`, and the hand that changes who else is there: ids up to `most`."""

    def __init__(
        self, settings: Settings, upkeep: Reconciler, node: type[NodeDriver], most: int
    ) -> None:
        self._most = most
        self._settings = settings
        self.zookeeper = AtOnce(Tree(), MINE)
        self._agreement = Agreement(self.zookeeper, PATHS)
        self.node = node(
            cast("Session", self.zookeeper),
            upkeep,
            self._agreement,
            ClusterContext(PATHS, settings, "this", hold=False),
            ME,
        )

    async def found(self, others: Sequence[int]) -> None:
        """Make a cluster of those members, under the settings that were handed in."""
        for _founded in range(2):
            with suppress(Unsettled):
                await self._agreement.agree(ME.id, NO_WISH, FOUNDER)
            self.commit(Write(PATHS.settings, self._settings.encode(), -1))
        released = LeaseRecord("another", 1, None, released=True).encode()
        self.commit(
            *(
                Create(PATHS.lease(other), released, ephemeral=False)
                for other in range(ME.id + 1, self._most + 1)
            )
        )
        self.commit(*map(joining, others))

    def commit(self, *operations: Operation) -> None:
        """Change the members; nobody is told yet."""
        commit(self.zookeeper.tree, [*operations, Write(PATHS.members, b"", -1)], OTHERS)


def weighing(member: int, weight: int) -> Operation:
    return Write(PATHS.member(member), replace(ME, id=member, weight=weight).encode(), -1)


def joining(member: int) -> Operation:
    return Create(PATHS.member(member), replace(ME, id=member).encode(), ephemeral=True)


def gone(member: int) -> Operation:
    return Delete(PATHS.member(member), -1)
