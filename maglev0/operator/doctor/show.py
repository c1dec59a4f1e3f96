"""Shows findings: blocks of text, with colours in a terminal, or one JSON object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from maglev0.operator.doctor import finding
from maglev0.operator.doctor.finding import Finding, Severity

_STYLES = {
    Severity.FAULT: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.NOTE: "cyan",
    Severity.LEFT_OUT: "magenta",
    Severity.SOUND: "green",
}


def findings_as_json(findings: Sequence[Finding]) -> str:
    """One object in one line, with the findings of sound checks."""
    counts = {severity.name.lower(): finding.count(findings, severity) for severity in Severity}
    return json.dumps(
        {
            "findings": [asdict(one) for one in finding.worst_first(findings)],
            "counts": counts,
            "summary": finding.summary_text(findings),
        }
    )


def print_findings(findings: Sequence[Finding], *, verbose: bool) -> None:
    """Print a block for each finding, the worst first, then the summary.

    Sound checks are printed only if `verbose`.
    """
    from rich.console import Console  # noqa: PLC0415  JSON does not need it
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False, soft_wrap=True)
    for one in finding.worst_first(findings):
        if one.severity is not Severity.SOUND or verbose:
            console.print(
                Text.assemble((one.severity, _STYLES[one.severity]), f": {one.check}: {one.what}")
            )
            for word, text in (("why", one.why), ("fix", one.fix)):
                if text:
                    console.print(Text.assemble((f"  {word}: ", "dim"), text))
    console.print(Text(finding.summary_text(findings), style="bold"))
