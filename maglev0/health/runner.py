"""Runs the health checks of one VIP for ever, and reports changes of their states."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from maglev0.config.health_checks import CheckTiming, HealthCheck
from maglev0.core.text import duration
from maglev0.health import probe
from maglev0.health.checks import CheckState, Health
from maglev0.runtime.program import END_TIMEOUT_S
from maglev0.runtime.waiting import together

_SLICES = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckOutcome:
    """The last run of a health check: its duration, and the reason if it was bad (else empty).

    `up` is the state of the check, by its results in a row.
    """

    check: HealthCheck
    up: bool
    duration_s: float
    reason: str


class CheckRunner:
    """The health checks of one VIP on this node.

    `changed` is called on the loop when `healthy`, a check in `problems` or its reason changed.
    Before the first results a node with health checks is not healthy.
    """

    def __init__(
        self,
        vip: IPv4Address,
        checks: Sequence[HealthCheck],
        timing: CheckTiming,
        changed: Callable[[], None],
    ) -> None:
        self._vip = vip
        self._timing = timing
        self._changed = changed
        self._health = Health(checks, timing)
        self._inspections = [_Inspection(check, vip, timing.timeout_s) for check in checks]
        self._results: dict[int, CheckOutcome] = {}
        self._first_round = asyncio.Lock()

    @property
    def healthy(self) -> bool:
        """Whether every health check is up."""
        return self._health.is_healthy

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for each health check that is down."""
        return self._health.problems(_now_s())

    @property
    def results(self) -> tuple[CheckOutcome, ...]:
        """The outcome of each health check that has run."""
        return tuple(result for _number, result in sorted(self._results.items()))

    async def first(self) -> None:
        """Return once each health check has had a result.

        This takes at most the timeout, or twice the timeout if this process gets no processor.
        """
        async with self._first_round:
            await asyncio.gather(
                *(
                    self._look(number)
                    for number, state in enumerate(self._health.states)
                    if state.up is None
                )
            )

    async def run(self) -> None:
        """Run the health checks for ever; cancelling this leaves no process."""
        try:
            await self.first()
            if not self._inspections:
                await asyncio.Event().wait()
            await together(*(self._repeat(number) for number in range(len(self._inspections))))
        finally:
            await _done(
                [future for inspection in self._inspections for future in inspection.remains],
                END_TIMEOUT_S,
            )

    async def _repeat(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        # Spread over the interval: programs that start together make a peak.
        due_s = loop.time() + self._timing.interval_s * (number + 1) / len(self._inspections)
        while True:
            await asyncio.sleep(due_s - loop.time())
            # Counted from now, so that a process that was stopped does not catch up.
            due_s = loop.time() + self._timing.interval_s
            await self._look(number)

    async def _look(self, number: int) -> None:
        inspection, begin_s = self._inspections[number], _now_s()
        reason = await inspection.look()
        now_s = _now_s()
        was, before = self._health.states[number], self._summary()
        self._health.note(number, reason, now_s)
        stands = self._health.states[number]
        self._results[number] = CheckOutcome(
            inspection.check, bool(stands.up), now_s - begin_s, reason or ""
        )
        self._log(inspection.check, was, stands, reason)
        if self._summary() != before:
            self._changed()

    def _summary(self) -> tuple[bool, list[tuple[HealthCheck, str]]]:
        return self.healthy, [(check, state.reason) for check, state in self._health.failing]

    def _log(
        self, check: HealthCheck, was: CheckState, stands: CheckState, reason: str | None
    ) -> None:
        if stands.up == was.up:
            if reason is not None:
                logger.debug("%s: health check %s: %s", self._vip, check, reason)
        elif stands.up:
            after = (
                "" if was.up is None else f" again after {duration(stands.since_s - was.since_s)}"
            )
            logger.info("%s: health check %s is up%s", self._vip, check, after)
        else:
            found = (
                "at the first run"
                if was.up is None
                else f"after {self._timing.fall} bad results in a row"
            )
            logger.warning("%s: health check %s is down %s: %s", self._vip, check, found, reason)


class _Inspection:
    """The probes of one health check, one at a time.

    `remains` holds the futures of threads and processes that outlive their probe.
    """

    def __init__(self, check: HealthCheck, vip: IPv4Address, timeout_s: float) -> None:
        self.check = check
        self._vip = vip
        self._timeout_s = timeout_s
        self.remains: list[asyncio.Future[Any]] = []

    async def look(self) -> str | None:
        """`None` if the service is up, else the reason."""
        if not await _done(self.remains, self._timeout_s):
            return "an earlier probe has not ended yet"
        self.remains.clear()
        looking = asyncio.create_task(probe.look(self.check, self._vip, self.remains.append))
        try:
            if await _done([looking], self._timeout_s):
                return looking.result()
            return f"no result within {self._timeout_s:g} s"
        finally:
            looking.cancel()
            await asyncio.wait([looking])


async def _done(futures: Collection[asyncio.Future[Any]], timeout_s: float) -> bool:
    """Whether the futures are done within a time in which this process runs.

    In a process that was stopped or got no processor, the timer fires together with everything that
    happened meanwhile, or before a program that was stopped with it could run. So the time is
    divided into slices, and a slice that took twice its time does not count, up to a bound.
    """
    loop, slice_s, left = asyncio.get_running_loop(), timeout_s / _SLICES, _SLICES
    for _slice in range(2 * _SLICES):
        if not left or all(future.done() for future in futures):
            break
        begin_s = loop.time()
        await asyncio.wait(futures, timeout=slice_s)
        left -= loop.time() - begin_s < 2 * slice_s
    return all(future.done() for future in futures)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
