"""A drain ends when it is known that no connection lives, or when its time is up."""

from __future__ import annotations

import asyncio
import logging

import pytest

from maglev0.core.view import DRAINING
from maglev0.operator.orders import drain
from maglev0.protocol.orders import Wish
from maglev0.protocol.ports.readings import Connections
from tests.support.whole_node import Kernel, Rig, run


def test_a_drain_goes_on_while_connections_cannot_be_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(rig: Rig) -> None:
        rig.kernel.is_countable = False
        rig.kernel.alive = 3
        draining = asyncio.create_task(rig.driver.drain(3600))
        await rig.until(lambda: draining.done() or "cannot be counted" in caplog.text)
        assert not draining.done()
        rig.kernel.is_countable = True
        await rig.until(lambda: draining.done() or "3 connections left" in caplog.text)
        assert not draining.done()
        rig.kernel.alive = 0
        await draining

    with caplog.at_level(logging.INFO):
        run(test)


def test_a_drain_whose_connections_cannot_be_counted_ends_with_its_time_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(rig: Rig) -> None:
        rig.kernel.is_countable = False
        await rig.driver.drain(0.1)

    with caplog.at_level(logging.INFO):
        run(test)
    assert any("unknown number of connections" in message for message in caplog.messages)


def test_a_drain_ends_with_its_time_and_says_how_many_connections_are_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(rig: Rig) -> None:
        rig.kernel.alive = 7
        await rig.driver.drain(0.1)

    with caplog.at_level(logging.INFO):
        run(test)
    assert any(message.startswith("leaving with 7 connections") for message in caplog.messages)


def test_an_ordered_drain_is_done_only_by_a_count_from_after_the_hand_over() -> None:
    """The count of before the drain says 0, and a connection has come since."""
    kernel = Kernel()
    kernel.pinned = frozenset({2})  # the other member's bucket, whose last connection is closing

    async def test(rig: Rig) -> None:
        await rig.until(lambda: (report := rig.report()) is not None and report.flows == 0)
        rig.kernel.alive = 1
        rig.driver.wish(Wish(DRAINING, 1))

        def has_handed_over() -> bool:
            look = rig.look()
            return look.is_settled and look.report is not None and look.report.held == 0

        await rig.until(has_handed_over)
        while (report := rig.report()) is None or report.flows != 1:
            assert not drain._is_empty(rig.look())
            await asyncio.sleep(0.01)
        rig.kernel.alive = 0
        await rig.until(lambda: drain._is_empty(rig.look()))

    run(test, kernel)


def test_the_loop_and_a_drain_never_count_side_by_side() -> None:
    class Slow(Kernel):
        beside = most = 0
        ended = asyncio.Event()

        async def connections(self) -> Connections:
            self.beside += 1
            self.most = max(self.most, self.beside)
            await self.ended.wait()
            self.beside -= 1
            return await super().connections()

    kernel = Slow()
    kernel.pinned = frozenset({1})

    async def test(rig: Rig) -> None:
        await rig.until(lambda: kernel.beside > 0)
        draining = asyncio.create_task(rig.driver.drain(3600))
        await rig.until(lambda: rig.driver._part.node_state.is_drained)
        for _look in range(30):
            await asyncio.sleep(0.01)
        assert kernel.most == 1
        kernel.ended.set()
        await draining

    run(test, kernel)
