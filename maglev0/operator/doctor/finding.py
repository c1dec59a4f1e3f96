"""What a check finds: how bad it is, what is the matter, why it matters, and the command that mends it.

Pure: imports no I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """From what breaks the cluster to what is as it should be; `LEFT_OUT` is what could not be looked at."""

    FAULT = "fault"
    WARNING = "warning"
    NOTE = "note"
    LEFT_OUT = "left out"
    SOUND = "ok"


@dataclass(frozen=True)
class Finding:
    """One finding of the check of that name; `mend` is a command, or what to do where none mends it."""

    severity: Severity
    check: str
    what: str
    why: str = ""
    mend: str = ""


def fault(check: str, what: str, why: str, mend: str) -> Finding:
    """It breaks the cluster, or will."""
    return Finding(Severity.FAULT, check, what, why, mend)


def warning(check: str, what: str, why: str, mend: str) -> Finding:
    """It may break the cluster, or costs it something."""
    return Finding(Severity.WARNING, check, what, why, mend)


def note(check: str, what: str, why: str, mend: str = "") -> Finding:
    """Worth knowing, and nothing is wrong."""
    return Finding(Severity.NOTE, check, what, why, mend)


def left_out(check: str, what: str, mend: str = "") -> Finding:
    """It could not be looked at."""
    return Finding(Severity.LEFT_OUT, check, what, "", mend)


def judged(check: str, well: str, *findings: Finding | None) -> list[Finding]:
    """What one check found, or that all is as it should be, in these words."""
    found = [finding for finding in findings if finding is not None]
    return found or [Finding(Severity.SOUND, check, well)]


def counted(findings: Iterable[Finding], severity: Severity) -> int:
    """How many there are of that severity."""
    return sum(finding.severity is severity for finding in findings)


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, in the order of the checks among their like."""
    rank = list(Severity)
    return sorted(findings, key=lambda finding: rank.index(finding.severity))


def summary(findings: Iterable[Finding]) -> str:
    """One line with the counts; a check counts once, whatever it found."""
    found = list(findings)
    checks = len({finding.check for finding in found})
    parts = [
        _number(checks, "check"),
        _number(counted(found, Severity.FAULT), "fault"),
        _number(counted(found, Severity.WARNING), "warning"),
    ]
    skipped = counted(found, Severity.LEFT_OUT)
    return ", ".join([*parts, f"{skipped} left out"] if skipped else parts)


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
