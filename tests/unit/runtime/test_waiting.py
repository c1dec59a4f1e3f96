from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.runtime.waiting import FIRST_DELAY_S, MAX_DELAY_S, Backoff, first_of, together
from tests.support.patience import PATIENCE_S

SOON_S = 0.01


def run(coroutine: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


class Wait:
    """A wait that tells how far it came."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.fate = "not begun"

    async def __call__(self) -> None:
        self.fate = "waiting"
        try:
            await self.event.wait()
        except asyncio.CancelledError:
            # The caller waits for the end of what it cancels, which may take a turn of the loop.
            await asyncio.sleep(0)
            self.fate = "cancelled"
            raise
        self.fate = "done"


async def turn() -> None:
    """Let everything that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def fails() -> None:
    await asyncio.sleep(0)
    raise LookupError("on purpose")


def test_first_of_returns_with_the_first_and_has_cancelled_the_others() -> None:
    async def scenario() -> None:
        first, second = Wait(), Wait()
        waiting = asyncio.create_task(first_of(first(), second()))
        await turn()
        assert not waiting.done()
        first.event.set()
        await waiting
        assert (first.fate, second.fate) == ("done", "cancelled")

    run(scenario())


def test_first_of_leaves_a_task_that_was_handed_in_running() -> None:
    async def scenario() -> None:
        handed, other = Wait(), Wait()
        task = asyncio.create_task(handed())
        other.event.set()
        await first_of(task, other())
        assert (handed.fate, other.fate) == ("waiting", "done")
        handed.event.set()
        await task

    run(scenario())


def test_first_of_leaves_a_task_that_was_handed_in_running_when_cancelled() -> None:
    async def scenario() -> None:
        handed, other = Wait(), Wait()
        task = asyncio.create_task(handed())
        waiting = asyncio.create_task(first_of(task, other()))
        await turn()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert (handed.fate, other.fate) == ("waiting", "cancelled")
        handed.event.set()
        await task

    run(scenario())


@pytest.mark.parametrize("timeout_s", [0, SOON_S])
def test_first_of_ends_when_time_is_up(timeout_s: float) -> None:
    async def scenario() -> None:
        never = Wait()
        loop = asyncio.get_running_loop()
        begin_s = loop.time()
        await first_of(never(), timeout_s=timeout_s)
        assert loop.time() - begin_s >= timeout_s
        assert never.fate in ("cancelled", "not begun")

    run(scenario())


def test_first_of_counts_a_failure_as_done() -> None:
    async def scenario() -> None:
        never = Wait()
        await first_of(fails(), never())
        assert never.fate == "cancelled"

    run(scenario())


def test_together_raises_what_the_first_raises_and_has_cancelled_the_others() -> None:
    async def scenario() -> None:
        endless = Wait()
        with pytest.raises(LookupError, match="on purpose"):
            await together(endless(), fails())
        assert endless.fate == "cancelled"

    run(scenario())


def test_together_cancels_all_when_it_is_cancelled() -> None:
    async def scenario() -> None:
        some = [Wait(), Wait()]
        running = asyncio.create_task(together(*(wait() for wait in some)))
        await turn()
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        assert [wait.fate for wait in some] == ["cancelled", "cancelled"]

    run(scenario())


def test_together_raises_one_of_two_failures_of_the_same_moment() -> None:
    async def scenario() -> None:
        with pytest.raises(LookupError, match="on purpose"):
            await together(fails(), fails())

    run(scenario())


def test_delays_double_up_to_the_bound_and_begin_anew_after_success() -> None:
    backoff = Backoff()
    assert [backoff.failed() for _ in range(8)] == [
        0.1,
        0.2,
        0.4,
        0.8,
        1.6,
        3.2,
        MAX_DELAY_S,
        MAX_DELAY_S,
    ]
    backoff.succeeded()
    assert backoff.failed() == FIRST_DELAY_S


@given(st.lists(st.booleans(), max_size=60), st.floats(FIRST_DELAY_S, 100))
def test_no_delay_is_beyond_its_bounds_and_none_shrinks_while_failures_go_on(
    outcomes: list[bool], most_s: float
) -> None:
    backoff = Backoff(most_s)
    for succeeded, run_of_outcomes in itertools.groupby(outcomes):
        if succeeded:
            backoff.succeeded()
            continue
        delays = [backoff.failed() for _ in run_of_outcomes]
        assert delays[0] == FIRST_DELAY_S
        assert delays == sorted(delays)
        assert delays[-1] <= most_s
