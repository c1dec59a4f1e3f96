"""Notices that the machine stood still while the world went on: its kernel's lease timers stood still, too.

After a suspend CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC; after a snapshot was resumed, the host's time source or its time daemon steps
CLOCK_REALTIME. Between the resumption and the step nobody can know (README, Limits).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

LOOK_S = 0.1
JUMP_S = 0.05  # slewing changes the distance of two clocks by 0.05 ms in 0.1 s
SAME_INSTANT_S = 0.01  # clocks read further apart, by a process that was stopped in between, cannot be compared


def distances_s() -> tuple[float, float]:
    """How far the two other clocks are ahead of CLOCK_MONOTONIC, in seconds."""
    while True:  # ends: a process that gets so little done does not get here again either
        monotonic_s = time.clock_gettime(time.CLOCK_MONOTONIC)
        found = time.clock_gettime(time.CLOCK_BOOTTIME) - monotonic_s, time.clock_gettime(time.CLOCK_REALTIME) - monotonic_s
        if time.clock_gettime(time.CLOCK_MONOTONIC) - monotonic_s < SAME_INSTANT_S:
            return found


async def watch(jumped: Callable[[float], Awaitable[None]]) -> None:
    """Await `jumped` with the seconds of each jump, for ever. A process that was stopped sees none: its clocks went on together."""
    before = distances_s()
    while True:
        await asyncio.sleep(LOOK_S)
        now = distances_s()
        jump_s = max((new - old for new, old in zip(now, before, strict=True)), key=abs)
        if abs(jump_s) > JUMP_S:
            await jumped(jump_s)
        before = now
