"""What a node reports of itself, at which pace, and what it leaves open."""

from __future__ import annotations

import time

import pytest

from maglev0.operator.status import page
from maglev0.telemetry import observer
from maglev0.telemetry.node_report import STALE_S
from tests.support.lone_node import ME, PATHS
from tests.support.whole_node import VIP, Kernel, Rig, run


class Large(Kernel):
    """A kernel whose buckets take long to read, as some 150,000 do."""

    async def owned(self) -> frozenset[int]:
        time.sleep(0.06)  # noqa: ASYNC251  it keeps the loop
        return await super().owned()


def test_a_node_that_looks_seldom_because_a_look_is_dear_is_not_called_hung() -> None:
    async def test(rig: Rig) -> None:
        pause_s = await rig.reporter.report()
        assert pause_s > STALE_S
        report = rig.report()
        assert report is not None
        seen = await observer.observe(rig.cluster.zookeeper, PATHS)
        for late_s, stale in ((pause_s, False), (3 * pause_s, True)):
            status = page.summarize(VIP, seen, report.read_at + late_s)
            (row,) = (row for row in status.rows if row.member.id == ME.id)
            assert row.is_stale is stale

    run(test, Large())


def test_an_unknown_number_of_connections_is_reported_as_unknown() -> None:
    async def test(rig: Rig) -> None:
        await rig.until(lambda: (report := rig.report()) is not None and report.flows == 0)
        rig.kernel.is_countable = False
        await rig.driver._sweeper.sweep()
        await rig.until(lambda: (report := rig.report()) is not None and report.flows is None)

    run(test)


@pytest.mark.parametrize("fails", [True, False])
def test_the_state_of_a_node_is_its_sinks_to_hear(fails: bool) -> None:
    async def test(rig: Rig) -> None:
        rig.reporter.look()
        assert [event.state for event in rig.listener.changes] == ["active"]
        rig.reconciler.able = not fails
        rig.reporter.look()
        rig.reporter.end()
        states = ["active", "host-fault", "left"] if fails else ["active", "left"]
        assert [event.state for event in rig.listener.changes] == states
        assert rig.listener.faults == (["kernel"] if fails else [])

    run(test)
