"""One result of a check: its severity, what is wrong, why it matters, and what fixes it. Pure.

It imports no I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How bad a finding is, the worst first; `LEFT_OUT` is a check that could not run."""

    FAULT = "fault"
    WARNING = "warning"
    NOTE = "note"
    LEFT_OUT = "left out"
    SOUND = "ok"


@dataclass(frozen=True)
class Finding:
    """One finding of the check of that name; `fix` is a command, or says what to do."""

    severity: Severity
    check: str
    what: str
    why: str = ""
    fix: str = ""


def fault(check: str, what: str, why: str, fix: str) -> Finding:
    """A finding that breaks the cluster, or will."""
    return Finding(Severity.FAULT, check, what, why, fix)


def warning(check: str, what: str, why: str, fix: str) -> Finding:
    """A finding that may break the cluster, or costs it something."""
    return Finding(Severity.WARNING, check, what, why, fix)


def note(check: str, what: str, why: str, fix: str = "") -> Finding:
    """A finding worth knowing; nothing is wrong."""
    return Finding(Severity.NOTE, check, what, why, fix)


def left_out(check: str, what: str, fix: str = "") -> Finding:
    """A check that could not run, and why."""
    return Finding(Severity.LEFT_OUT, check, what, "", fix)


def judged(check: str, well: str, *findings: Finding | None) -> list[Finding]:
    """The findings of one check, or one that says that all is well in the words `well`."""
    found = [finding for finding in findings if finding is not None]
    return found or [Finding(Severity.SOUND, check, well)]


def count(findings: Iterable[Finding], severity: Severity) -> int:
    """The number of findings of that severity."""
    return sum(finding.severity is severity for finding in findings)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, the worst first, otherwise in the order of the checks."""
    rank = list(Severity)
    return sorted(findings, key=lambda finding: rank.index(finding.severity))


def summary_text(findings: Iterable[Finding]) -> str:
    """One line with the counts; a check with several findings counts once."""
    found = list(findings)
    checks = len({finding.check for finding in found})
    parts = [
        _number(checks, "check"),
        _number(count(found, Severity.FAULT), "fault"),
        _number(count(found, Severity.WARNING), "warning"),
    ]
    skipped = count(found, Severity.LEFT_OUT)
    return ", ".join([*parts, f"{skipped} left out"] if skipped else parts)


def _number(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
