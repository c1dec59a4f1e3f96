"""The reconciler beside a kernel that fails in one thing."""

from __future__ import annotations

import asyncio
import logging

import pytest

from maglev0.core.service import HashFamily
from maglev0.core.transition import Move
from maglev0.daemon.reconciler import Reconciler
from maglev0.dataplane.dry_run import DryRun
from maglev0.errors import DataplaneError
from maglev0.protocol.handover import NOTHING
from maglev0.protocol.ports.readings import Counters
from tests.support.whole_node import Rig, run

DEAF = "listening to the kernel's notices: no buffer space"


class Deaf(DryRun):
    """Cannot wait for the kernel's events."""

    def __init__(self) -> None:
        super().__init__(HashFamily.NFTABLES)
        self.repairs = 0

    async def disturbed(self) -> None:
        raise DataplaneError(DEAF)

    async def repair(self) -> tuple[str, ...]:
        self.repairs += 1
        return ()


def test_a_kernel_whose_events_cannot_be_awaited_is_looked_at_less_and_less_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataplane = Deaf()

    async def whole() -> None:
        reconciler = Reconciler(dataplane, lambda: None)
        mending = asyncio.create_task(reconciler.reconcile())
        await asyncio.sleep(1)
        assert not mending.done()
        mending.cancel()
        await asyncio.gather(mending, return_exceptions=True)
        assert reconciler.able

    with caplog.at_level(logging.INFO):
        asyncio.run(whole())
    assert 1 <= dataplane.repairs <= 5  # after 0.1 s, 0.2 s, 0.4 s ... at most
    assert [message for message in caplog.messages if "no buffer space" in message] == [
        f"cannot wait for kernel events: {DEAF}; looking at the kernel every 5 s"
    ]


class Shared(DryRun):
    """Its bucket calls and its counters use one socket, as those of nftables do."""

    def __init__(self) -> None:
        super().__init__(HashFamily.NFTABLES)
        self.is_staging, self.was_disturbed = False, False
        self.may_end = asyncio.Event()

    async def stage(self, move: Move) -> None:
        self.is_staging = True
        await self.may_end.wait()
        await super().stage(move)
        self.is_staging = False

    async def counters(self) -> Counters | None:
        self.was_disturbed |= self.is_staging
        return None


def test_counters_are_not_read_while_a_move_is_staged() -> None:
    async def whole() -> None:
        dataplane = Shared()
        reconciler = Reconciler(dataplane, lambda: None)
        async with asyncio.TaskGroup() as group:
            group.create_task(reconciler.stage(NOTHING))
            await asyncio.sleep(0)
            reading = group.create_task(reconciler.counters())
            for _turn in range(5):
                await asyncio.sleep(0)
            assert not reading.done()
            dataplane.may_end.set()
        assert not dataplane.was_disturbed

    asyncio.run(whole())


def test_a_read_back_for_the_report_that_fails_is_no_fault_of_the_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(rig: Rig) -> None:
        await rig.until(lambda: rig.report() is not None)
        rig.kernel.is_readable = False
        await rig.until(lambda: "out of memory" in caplog.text)
        assert rig.reconciler.able
        assert rig.driver.progress.is_settled
        rig.reporter.look()
        assert rig.reporter.state == "active"
        assert "leaves the cluster" not in caplog.text
        assert not rig.listener.faults

    with caplog.at_level(logging.INFO):
        run(test)
