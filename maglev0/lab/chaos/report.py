"""A verdict as text and as JSON.

Pure: imports no I/O.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maglev0.lab.chaos.episodes import Timeline
    from maglev0.lab.chaos.verdict import CauseRow, TrialVerdict
    from maglev0.lab.traffic.clients import ClientResult

HEADING = (
    f"{'cause':30} times   asked   lost moved   gap s: 50 %   90 %   99 %   "
    " max  bound  broken, stalls"
)


def text(verdict: TrialVerdict, result: ClientResult, timeline: Timeline, *, hold: bool) -> str:
    """The counts, a line for each cause, every fault and every bound in time exceeded."""
    rows = list(verdict.rows.values())
    lasted_s = timeline.duration_s(verdict.rows)
    planned = {episode.cause for episode in timeline.episodes if episode.allowance.planned}
    broken, held = (
        sum(values)
        for values in zip(
            *((row.broken.total(), row.held) for row in rows if row.cause in planned), strict=True
        )
    )
    doubles, asked = sum(row.doubles for row in rows), len(result.tally)
    lines = [
        (
            f"{lasted_s:.0f} s, {asked} requests; the client used "
            f"{result.cpu_s / lasted_s:.1%} of a core"
        ),
        (
            f"double answers {doubles}{' (hold: no fault)' if hold else ''}; "
            f"connections broken by planned changes {broken} of {held} held through "
            "them"
        ),
        HEADING,
        *map(_line, rows),
    ]
    lines += [f"NOT AS PROMISED: {fault}" for fault in verdict.faults]
    lines += [f"SLOWER THAN PROMISED: {gap}" for gap in verdict.slow]
    return "\n".join(lines)


def _line(row: CauseRow) -> str:
    figures = row.figures()
    measured = " ".join(
        f"{figures[name]:6.3f}" for name in ("gap_p90_s", "gap_p99_s", "gap_max_s", "bound_s")
    )
    broken = ", ".join(f"{count} {what}" for what, count in sorted(row.broken.items())) or "-"
    stalls = f", {len(row.stalls_s)} stalls up to {max(row.stalls_s):.1f} s" if row.stalls_s else ""
    counts = f"{row.cause:30} {row.times:5} {row.asked:7} {row.lost:6} {len(row.gaps_s):5}"
    return f"{counts}   {figures['gap_p50_s']:11.3f} {measured}  {broken}{stalls}"


def to_json(verdict: TrialVerdict, result: ClientResult, seed: int) -> str:
    """One line of JSON."""
    rows = [row.figures() for row in verdict.rows.values()]
    whole = {
        "seed": seed,
        "good": verdict.good,
        "asked": len(result.tally),
        "client_cpu_s": result.cpu_s,
    }
    return json.dumps(whole | {"causes": rows, "faults": verdict.faults, "slow": verdict.slow})
