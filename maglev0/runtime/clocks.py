"""Notices that the machine stood still while the world went on: its kernel's lease timers stood still, too.

After a suspend CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC; after a snapshot was resumed, the host's time source or its time daemon steps
CLOCK_REALTIME. Between the resumption and the step nobody can know (README, Limits). The kernel tells of either at once, by a timer that it cancels
then (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from maglev0.runtime.waiting import woken

LOOK_S = 10.0  # between two looks without a notice, so that what slewing adds up to is never taken for a jump
JUMP_S = 0.05  # slewing changes the distance of two clocks by 5 ms in 10 s
SAME_INSTANT_S = (
    0.01  # clocks read further apart, by a process that was stopped in between, cannot be compared
)

_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK, TFD_CLOEXEC
_CANCEL_ON_SET = 1 << 0 | 1 << 1  # TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET
_NEVER = (1 << 31) - 1  # the last second that every time_t has


class _Timer(ctypes.Structure):  # struct itimerspec
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


def distances_s() -> tuple[float, float]:
    """How far the two other clocks are ahead of CLOCK_MONOTONIC, in seconds."""
    while True:  # ends: a process that gets so little done does not get here again either
        monotonic_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        found = (
            time.clock_gettime(time.CLOCK_BOOTTIME) - monotonic_s,
            time.clock_gettime(time.CLOCK_REALTIME) - monotonic_s,
        )
        if time.clock_gettime(time.CLOCK_MONOTONIC) - monotonic_s < SAME_INSTANT_S:
            return found


async def watch(jumped: Callable[[float], Awaitable[None]]) -> None:
    """Await `jumped` with the seconds of each jump, for ever. A process that was stopped sees none: its clocks went on together."""
    with _noticing() as noticed:
        before = distances_s()
        while True:
            noticed.clear()
            await woken(noticed, LOOK_S)
            now = distances_s()
            jump_s = max((new - old for new, old in zip(now, before, strict=True)), key=abs)
            if abs(jump_s) > JUMP_S:
                await jumped(jump_s)
            before = now


@contextmanager
def _noticing() -> Iterator[asyncio.Event]:
    """An event that is set when the kernel says that its clock was set, or that the machine was resumed."""
    noticed, loop = asyncio.Event(), asyncio.get_running_loop()
    timer = _timer()

    def notice() -> None:
        with contextlib.suppress(
            OSError
        ):  # ECANCELED is the notice; reading it makes room for the next
            os.read(timer, 8)
        noticed.set()

    loop.add_reader(timer, notice)
    try:
        yield noticed
    finally:
        loop.remove_reader(timer)
        os.close(timer)


def _timer() -> int:
    library = ctypes.CDLL(None, use_errno=True)
    timer: int = library.timerfd_create(time.CLOCK_REALTIME, _FLAGS)
    spec = _Timer(value_s=_NEVER)
    if timer < 0 or library.timerfd_settime(timer, _CANCEL_ON_SET, ctypes.byref(spec), None):
        raise OSError(ctypes.get_errno(), "timerfd")
    return timer
