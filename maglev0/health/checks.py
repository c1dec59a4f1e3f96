"""What the results of health checks in a row say: whether this node may answer.

Pure: imports no I/O. The time is handed in, as seconds of one steadily running clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from maglev0.config.health_checks import CheckTiming, HealthCheck
from maglev0.core.text import blanked, duration, shortened

MAX_PROBLEM_CHARACTERS = 255
_CALLED_CHARACTERS = 80  # of a check's text in a problem, so that there is room for the reason


@dataclass(frozen=True)
class CheckState:
    """How one check stands.

    `up` is what its results in a row say, `None` before the first; `since_s` is when the results began that said so, `reason` what the last bad one
    said. `against` results in a row have contradicted `up`, from `against_since_s` on.
    """

    up: bool | None = None
    since_s: float = 0.0
    reason: str = ""
    against: int = 0
    against_since_s: float = 0.0

    def after(self, reason: str | None, timing: CheckTiming, now_s: float) -> CheckState:
        """How it stands after one more result: `None` for a good one, else the reason. The first one counts at once."""
        good = reason is None
        told = replace(self, reason=self.reason if reason is None else reason)
        if self.up is None:
            return replace(told, up=good, since_s=now_s)
        if good == self.up:
            return replace(told, against=0)
        against, since_s = self.against + 1, self.against_since_s if self.against else now_s
        if against < (timing.rise if good else timing.fall):
            return replace(told, against=against, against_since_s=since_s)
        return replace(told, up=good, since_s=since_s, against=0)


class Health:
    """Whether this node may answer: it may while every check is up."""

    def __init__(self, checks: Sequence[HealthCheck], timing: CheckTiming) -> None:
        self._checks = tuple(checks)
        self._timing = timing
        self.standings = tuple(CheckState() for _check in checks)

    def note(self, number: int, reason: str | None, now_s: float) -> None:
        """Take a result of check `number`, from 0: `None` for a good one, else what was wrong."""
        after = self.standings[number].after(reason, self._timing, now_s)
        self.standings = (*self.standings[:number], after, *self.standings[number + 1 :])

    @property
    def is_complete(self) -> bool:
        """Whether every check has had a result."""
        return all(standing.up is not None for standing in self.standings)

    @property
    def is_healthy(self) -> bool:
        """Whether all checks are up; without a check, so is everything."""
        return all(standing.up for standing in self.standings)

    @property
    def failing(self) -> tuple[tuple[HealthCheck, CheckState], ...]:
        """The checks that are down."""
        return tuple(
            (check, standing)
            for check, standing in zip(self._checks, self.standings, strict=True)
            if standing.up is False
        )

    def problems(self, now_s: float) -> tuple[str, ...]:
        """One printable line of at most `MAX_PROBLEM_CHARACTERS` for each check that is down."""
        return tuple(_problem(check, standing, now_s) for check, standing in self.failing)


def _problem(check: HealthCheck, standing: CheckState, now_s: float) -> str:
    tail = f", for {duration(now_s - standing.since_s)}"
    head = f"{shortened(str(check), _CALLED_CHARACTERS)}: {standing.reason}"
    return shortened(blanked(head), MAX_PROBLEM_CHARACTERS - len(tail)) + tail
