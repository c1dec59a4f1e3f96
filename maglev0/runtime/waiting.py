"""Waiting on an asyncio loop: for the first of several, for a thread, with growing delays."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0


async def first_of(*waits: Awaitable[object], timeout_s: float | None = None) -> None:
    """Return when the first is done or time is up; cancels those that are not tasks already."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ours = [task for task, wait in zip(tasks, waits, strict=True) if task is not wait]
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)


async def woken(event: asyncio.Event, timeout_s: float | None) -> None:
    """Return when the event is set or time is up; needs no task, so it suits busy loops."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


async def until_set(event: asyncio.Event) -> None:
    """Return when the event is set; among endless coroutines it ends `together`."""
    await event.wait()


async def together(*endless: Coroutine[None, None, None]) -> None:
    """Run them side by side until one ends or raises, then cancel the others.

    Raises what that one raised. Cancelling this cancels all.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in endless]
    try:
        done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def in_thread(function: Callable[[], _Result]) -> _Result:
    """Run a blocking function in a thread that does not delay the end of the process.

    The loop waits for threads of `asyncio.to_thread` when it ends, and a silent name server would
    hold it up for half a minute. Cancelling this does not stop the thread.
    """
    done: Future[_Result] = Future()
    done.set_running_or_notify_cancel()  # a waiter can be cancelled, the thread cannot

    def run() -> None:
        try:
            done.set_result(function())
        except BaseException as error:  # noqa: BLE001  the waiter gets it
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(done)


class Backoff:
    """A delay that doubles with each failure in a row, up to a bound."""

    def __init__(self, most_s: float = MAX_DELAY_S) -> None:
        self._most_s = most_s
        self._next_s = FIRST_DELAY_S

    def failed(self) -> float:
        """Return how long to wait after one more failure."""
        delay_s, self._next_s = self._next_s, min(2 * self._next_s, self._most_s)
        return delay_s

    def succeeded(self) -> None:
        """Start again with the first delay."""
        self._next_s = FIRST_DELAY_S
