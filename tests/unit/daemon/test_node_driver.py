"""What a node driver does beside the protocol, with a dry dataplane and an instant ZooKeeper."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from maglev0.core.assignment import Assignment, decide
from maglev0.core.service import HashFamily, HashMode
from maglev0.core.settings import Settings
from maglev0.core.transition import Move
from maglev0.core.view import View
from maglev0.daemon import planner
from maglev0.daemon.node_driver import NodeDriver
from maglev0.daemon.reconciler import Reconciler
from maglev0.dataplane.dry_run import DryRun
from maglev0.protocol.handover import NOTHING
from maglev0.protocol.ports.zookeeper import Operation
from tests.support.lone_node import ME, PATHS
from tests.support.through import Through, gone, joining, weighing

BUCKETS = 4096
SETTINGS = Settings(
    BUCKETS, HashMode.SOURCE_IP, 7, HashFamily.NFTABLES, "03:bf:c6:33:64:01", 20_000
)
LOOK_S = 0.005


class Slow(DryRun):
    """Remembers the moves that it stages, and never finishes tidying."""

    def __init__(self, family: HashFamily) -> None:
        super().__init__(family)
        self.staged: list[Move] = []

    async def stage(self, move: Move) -> None:
        self.staged.append(move)
        if move == NOTHING:
            await asyncio.Event().wait()
        await super().stage(move)


class Watched(NodeDriver):
    """Shows what others see only by its effects."""

    @property
    def held(self) -> frozenset[int]:
        return self._part.handover.held

    @property
    def has_all_plans(self) -> bool:
        plans = self._planner._plans
        return plans.ownership is not None and plans._absences.keys() == (
            plans._weights or {}
        ).keys() - {ME.name}


class Run:
    """One node with its cluster, and how many tables it built while a change waited."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dataplane: DryRun) -> None:
        self.tables = 0
        self.cluster = Through(SETTINGS, Reconciler(dataplane, lambda: None), Watched, 9)
        assert isinstance(self.cluster.node, Watched)
        self.node = self.cluster.node

        def counted(view: View, total_nodes: int, *, dry_run: bool) -> Assignment:
            self.tables += 1
            return decide(view, total_nodes, dry_run=dry_run)

        monkeypatch.setattr(planner, "decide", counted)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  nothing sets an event
            await asyncio.sleep(LOOK_S)

    async def change(self, *operations: Operation) -> None:
        """Change the members, and wait until the node holds what is its own then."""
        before = self.node.held
        self.cluster.commit(*operations)
        self.node.notice(PATHS.members)
        await self.until(lambda: self.node.held != before)


def run(
    test: Callable[[Run], object], monkeypatch: pytest.MonkeyPatch, dataplane: DryRun | None = None
) -> Run:
    one = Run(monkeypatch, dataplane or DryRun(HashFamily.NFTABLES))

    async def whole() -> None:
        await one.cluster.found((2, 3, 4))
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            following = group.create_task(one.node.follow())
            await one.until(lambda: bool(one.node.held))
            await test(one)  # type: ignore[misc]
            following.cancel()

    asyncio.run(whole())
    return one


def test_a_node_at_rest_takes_over_without_building_a_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(one: Run) -> None:
        before = one.node.held
        await one.until(lambda: one.node.has_all_plans)
        await one.change(gone(3))
        assert len(one.node.held - before) > BUCKETS / 20
        await one.change(joining(3))
        assert one.node.held == before

    assert run(test, monkeypatch).tables == 1


def test_the_log_shows_a_planned_change_like_any_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(one: Run) -> None:
        await one.until(lambda: one.node.has_all_plans)
        await one.change(gone(3))
        await one.until(lambda: "[1 2 4]" in caplog.messages)
        await one.until(
            lambda: f"NFTABLES Nodes:  {len(one.node.held)} of {BUCKETS}" in caplog.messages
        )

    with caplog.at_level(logging.INFO):
        assert run(test, monkeypatch).tables == 1
    shares = [message for message in caplog.messages if message.startswith("backend-")]
    assert [share.partition(" is")[0] for share in shares[-3:]] == [
        f"{ME.name} (me!)",
        "backend-2",
        "backend-4",
    ]


def test_a_change_does_not_wait_for_failover_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change comes while the node still plans for the one before."""

    async def test(one: Run) -> None:
        for weight in (2, 3, 4, 5):
            await one.change(weighing(2, weight))
        await one.until(lambda: one.node.has_all_plans)

    assert run(test, monkeypatch).tables == 5


def test_a_node_at_rest_has_its_kernel_tidied_and_a_change_does_not_wait_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataplane = Slow(HashFamily.NFTABLES)

    async def test(one: Run) -> None:
        await one.until(lambda: NOTHING in dataplane.staged)
        await one.change(gone(3))
        await one.until(lambda: dataplane.staged[-1] == NOTHING)

    run(test, monkeypatch, dataplane)
    assert [move == NOTHING for move in dataplane.staged] == [False, True, False, True]
