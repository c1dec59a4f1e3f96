"""The lease as the kernel keeps it: it ends by itself, on time, and no pause lengthens it.

Each answer or silence is bracketed by the times before and after, so that a busy machine widens
what is known but makes nothing wrong.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import pytest

from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.errors import DataplaneError
from tests.kernel.conftest import Host
from tests.kernel.nft import (
    SERVICE,
    Step,
    doomed,
    hand_over,
    killed_after,
    listed,
    opened,
    owning,
    renew,
)
from tests.kernel.wire import Wire, wired

pytestmark = pytest.mark.kernel

LEASE_S = 0.5
LEASE_MS = round(1000 * LEASE_S)
ASK_INTERVAL_S = 0.0005  # each question needs a port of its own, of which there are not too many
TICK_S = 0.011  # the kernel counts time-outs in ticks of 1 to 10 ms and rounds them down
ARMED: list[Step] = [*owning(1), ("arm", ()), ("promote", ())]


@dataclass
class Asked:
    """When new flows were answered, and when they were not.

    The times before and after each question.
    """

    answered: list[tuple[float, float]] = field(default_factory=list)
    silent: list[tuple[float, float]] = field(default_factory=list)

    async def ask(self, wire: Wire, until_s: float) -> None:
        while (before_s := time.monotonic()) < until_s:
            found = self.answered if wire.client(1).datagram() else self.silent
            found.append((before_s, time.monotonic()))
            await asyncio.sleep(ASK_INTERVAL_S)


def on_a_wire(host: Host, scenario: Callable[[Wire], Coroutine[None, None, None]]) -> None:
    with wired(host, SERVICE) as wire:
        asyncio.run(scenario(wire))


def await_stop(process: int) -> None:
    _pid, status = os.waitpid(process, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


async def armed(dataplane: Nftables) -> tuple[float, float]:
    """Start the timer, and tell the times before and after."""
    before_s = time.monotonic()
    await dataplane.arm()
    return before_s, time.monotonic()


def test_a_lease_that_nobody_renews_ends_on_time_and_not_before(host: Host) -> None:
    async def scenario(wire: Wire) -> None:
        async with opened(lease_ms=LEASE_MS) as dataplane:
            await hand_over(dataplane, {1})
            for _round in range(3):
                before_s, after_s = await armed(dataplane)
                await dataplane.promote()
                asked = Asked()
                await asked.ask(wire, after_s + LEASE_S + 0.1)
                assert asked.answered
                assert asked.silent
                assert max(start_s for start_s, _end_s in asked.answered) <= after_s + LEASE_S
                assert min(end_s for _start_s, end_s in asked.silent) >= before_s + LEASE_S - TICK_S
                assert max(asked.answered) < min(asked.silent)

    on_a_wire(host, scenario)


def test_a_lease_that_was_dropped_is_not_promoted_without_a_new_timer(host: Host) -> None:
    async def scenario(wire: Wire) -> None:
        async with opened() as dataplane:
            await hand_over(dataplane, {1})
            with pytest.raises(DataplaneError, match="no armed timer"):
                await dataplane.promote()
            await dataplane.arm()
            await dataplane.drop()
            with pytest.raises(DataplaneError, match="no armed timer"):
                await dataplane.promote()
            assert not wire.client(1).datagram()
            await renew(dataplane)
            with pytest.raises(DataplaneError, match="no armed timer"):
                await dataplane.promote()
            assert wire.client(1).datagram()

    on_a_wire(host, scenario)


def test_a_slot_that_is_promoted_late_has_only_the_rest(host: Host) -> None:
    async def scenario(wire: Wire) -> None:
        async with opened(lease_ms=LEASE_MS) as dataplane:
            await hand_over(dataplane, {1})
            _before_s, after_s = await armed(dataplane)
            early = Asked()
            await early.ask(wire, after_s + 0.6 * LEASE_S)
            assert not early.answered
            await dataplane.promote()
            late = Asked()
            await late.ask(wire, after_s + LEASE_S + 0.1)
            assert max(start_s for start_s, _end_s in late.answered) <= after_s + LEASE_S
            before_s, after_s = await armed(dataplane)
            await asyncio.sleep(max(0, before_s + LEASE_S + TICK_S - time.monotonic()))
            await dataplane.promote()
            over = Asked()
            await over.ask(wire, time.monotonic() + 0.05)
            assert not over.answered

    on_a_wire(host, scenario)


def test_renewed_in_time_it_never_ends(host: Host) -> None:
    async def scenario(wire: Wire) -> None:
        length_s = 2.0
        async with opened(lease_ms=round(1000 * length_s)) as dataplane:
            await hand_over(dataplane, {1})
            asked = Asked()
            end_s = time.monotonic() + 1.5 * length_s
            while time.monotonic() < end_s:
                await renew(dataplane)
                await asked.ask(wire, time.monotonic() + 0.05)
            assert not asked.silent

    on_a_wire(host, scenario)


def test_a_killed_process_leaves_a_lease_that_ends_by_itself(host: Host) -> None:
    async def scenario(wire: Wire) -> None:
        killed_after(ARMED, lease_ms=LEASE_MS)
        dead_s = time.monotonic()
        asked = Asked()
        await asked.ask(wire, dead_s + LEASE_S + 0.1)
        assert all(start_s <= dead_s + LEASE_S for start_s, _end_s in asked.answered)
        assert not listed(host).leased

    on_a_wire(host, scenario)


def test_an_adopted_lease_has_the_rest_of_its_time(host: Host) -> None:
    async def scenario(wire: Wire) -> None:
        length_s = 3.0
        started_s = time.monotonic()
        killed_after(ARMED, lease_ms=round(1000 * length_s))
        dead_s = time.monotonic()
        async with opened(lease_ms=60_000) as dataplane:
            asked = Asked()
            await asked.ask(wire, dead_s + length_s + 0.1)
            assert all(start_s <= dead_s + length_s for start_s, _end_s in asked.answered)
            assert all(end_s >= started_s + length_s - TICK_S for _start_s, end_s in asked.silent)
            await renew(dataplane)
            assert wire.client(1).datagram()

    on_a_wire(host, scenario)


@pytest.mark.parametrize("guard", [True, False])
def test_a_process_that_is_stopped_between_arming_and_promoting_gains_nothing(
    host: Host, guard: bool
) -> None:
    async def scenario(wire: Wire) -> None:
        with doomed(
            [*ARMED, ("arm", ()), ("stop", ()), ("promote", ())], lease_ms=LEASE_MS, guard=guard
        ) as child:
            await_stop(child.pid)
            stopped_s = time.monotonic()
            asked = Asked()
            await asked.ask(wire, stopped_s + LEASE_S + TICK_S)
            assert all(start_s <= stopped_s + LEASE_S for start_s, _end_s in asked.answered)
            child.send_signal(signal.SIGCONT)
        woken = Asked()
        await woken.ask(wire, time.monotonic() + 0.05)
        assert not woken.answered

    on_a_wire(host, scenario)
