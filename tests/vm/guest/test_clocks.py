"""The daemon notices a clock jump at once.

These tests set the clock, so they run only in the virtual machine.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from maglev0.runtime import clocks

# The emulated machine's processors may be busy. Without a notice a jump shows after ten seconds.
NOTICE_S = 2.0


async def jumps_seen(*steps_s: float) -> list[float]:
    """Step the clock as soon as the previous jump was seen; return the jumps seen, in seconds."""
    seen: asyncio.Queue[float] = asyncio.Queue()
    watching = asyncio.create_task(clocks.watch(seen.put))
    await asyncio.sleep(0.5)
    found = []
    for step_s in steps_s:
        time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME) + step_s)
        found.append(await asyncio.wait_for(seen.get(), NOTICE_S))
    watching.cancel()
    return found


def test_every_jump_is_noticed_and_measured() -> None:
    assert asyncio.run(jumps_seen(30.0, -10.0, 0.2)) == pytest.approx([30.0, -10.0, 0.2], abs=0.1)


def test_a_step_that_slewing_could_have_made_is_none() -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(jumps_seen(0.01))
