"""The state of health checks by their results in a row: whether this node may answer.

Pure: imports no I/O. The caller passes the time, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from maglev0.config.health_checks import CheckTiming, HealthCheck
from maglev0.core.text import blanked, duration, shortened

MAX_PROBLEM_CHARACTERS = 255
_NAME_CHARACTERS = 80  # of a check's text in a problem; the rest is for the reason


@dataclass(frozen=True)
class CheckState:
    """The state of one health check.

    `up` is `None` before the first result. `since_s` is the time of the first of the results that
    made it so, `reason` that of the last bad result. `against` results in a row have contradicted
    `up`, the first at `against_since_s`.
    """

    up: bool | None = None
    since_s: float = 0.0
    reason: str = ""
    against: int = 0
    against_since_s: float = 0.0

    def after(self, reason: str | None, timing: CheckTiming, now_s: float) -> CheckState:
        """Return the state after one more result: `None` for a good one, else the reason.

        The first result counts at once.
        """
        good = reason is None
        known = replace(self, reason=self.reason if reason is None else reason)
        if self.up is None:
            return replace(known, up=good, since_s=now_s)
        if good == self.up:
            return replace(known, against=0)
        against, since_s = self.against + 1, self.against_since_s if self.against else now_s
        if against < (timing.rise if good else timing.fall):
            return replace(known, against=against, against_since_s=since_s)
        return replace(known, up=good, since_s=since_s, against=0)


class Health:
    """Whether this node may answer: it may while every health check is up."""

    def __init__(self, checks: Sequence[HealthCheck], timing: CheckTiming) -> None:
        self._checks = tuple(checks)
        self._timing = timing
        self.states = tuple(CheckState() for _check in checks)

    def note(self, number: int, reason: str | None, now_s: float) -> None:
        """Record a result of check `number`, from 0: `None` for a good one, else the reason."""
        after = self.states[number].after(reason, self._timing, now_s)
        self.states = (*self.states[:number], after, *self.states[number + 1 :])

    @property
    def is_complete(self) -> bool:
        """Whether every health check has had a result."""
        return all(state.up is not None for state in self.states)

    @property
    def is_healthy(self) -> bool:
        """Whether all health checks are up; without any, a node is healthy."""
        return all(state.up for state in self.states)

    @property
    def failing(self) -> tuple[tuple[HealthCheck, CheckState], ...]:
        """The health checks that are down."""
        return tuple(
            (check, state)
            for check, state in zip(self._checks, self.states, strict=True)
            if state.up is False
        )

    def problems(self, now_s: float) -> tuple[str, ...]:
        """A printable line for each health check that is down, cut to the limit."""
        return tuple(_problem(check, state, now_s) for check, state in self.failing)


def _problem(check: HealthCheck, state: CheckState, now_s: float) -> str:
    tail = f", for {duration(now_s - state.since_s)}"
    head = f"{shortened(str(check), _NAME_CHARACTERS)}: {state.reason}"
    return shortened(blanked(head), MAX_PROBLEM_CHARACTERS - len(tail)) + tail
