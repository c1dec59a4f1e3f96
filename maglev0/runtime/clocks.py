"""Detects that the machine was suspended, which stops the kernel's lease timers too.

After a suspend CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC. After a snapshot resumes, the host's
time source or time daemon steps CLOCK_REALTIME; before that step nothing shows it (manual:
limits). The kernel reports either at once: it cancels a timer (timerfd_create(2),
TFD_TIMER_CANCEL_ON_SET).
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

LOOK_S = 10.0  # between two looks without a notice, so that slewing never adds up to a jump
JUMP_S = 0.05  # slewing moves two clocks apart by 5 ms in 10 s
# A process that is stopped between two reads cannot compare the clocks.
SAME_INSTANT_S = 0.01

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
    """How far CLOCK_BOOTTIME and CLOCK_REALTIME are ahead of CLOCK_MONOTONIC, in seconds."""
    while True:  # ends as soon as the process runs for 10 ms
        monotonic_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        found = (
            time.clock_gettime(time.CLOCK_BOOTTIME) - monotonic_s,
            time.clock_gettime(time.CLOCK_REALTIME) - monotonic_s,
        )
        if time.clock_gettime(time.CLOCK_MONOTONIC) - monotonic_s < SAME_INSTANT_S:
            return found


async def watch(jumped: Callable[[float], Awaitable[None]]) -> None:
    """Await `jumped` with the seconds of each jump, for ever.

    A process that was only stopped sees no jump, because its clocks went on together.
    """
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
    """An event that the kernel sets when its clock was set or the machine resumed."""
    noticed, loop = asyncio.Event(), asyncio.get_running_loop()
    timer = _timer()

    def notice() -> None:
        # ECANCELED is the notice; reading it re-arms the next one.
        with contextlib.suppress(OSError):
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
