"""How fast the Maglev table is built, how even it is and how little moves.

`python -m tests.bench.table`.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table

from maglev0.core import table
from tests.support import reference

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (5, 251, 65_537, 655_373)
MEMBERS = (3, 10, 100, 1000)
RUNS = {5: 21, 251: 21, 65_537: 7, 655_373: 3}
REFERENCE_RUNS = {5: 5, 251: 5, 65_537: 3, 655_373: 1}
LIMITS_MS = {65_537: 40, 655_373: 2000}

LEAVE_SIZE = 65_537
LEAVE_MEMBERS = (
    3,
    10,
    30,
    100,
    300,
    350,
    1000,
)  # at this size about 350 members are the worst case
LEAVERS = 12


class Timing(NamedTuple):
    """One size and member count: times in milliseconds, shares as multiples of the mean share."""

    size: int
    members: int
    median_ms: float
    worst_ms: float
    reference_ms: float
    largest_share: float
    smallest_share: float


class Leaving(NamedTuple):
    """What moves beyond the leaver's own slots, as parts of the whole table."""

    members: int
    leavers: int
    average: float
    worst: float


class Result(NamedTuple):
    timings: tuple[Timing, ...]
    leavings: tuple[Leaving, ...]


def backends(count: int) -> dict[str, int]:
    return {f"backend-{number}": 1 for number in range(1, count + 1)}


def times_ms(
    build: Callable[[int, dict[str, int]], object], size: int, weights: dict[str, int], runs: int
) -> list[float]:
    def once() -> float:
        start_ns = time.perf_counter_ns()
        build(size, weights)
        return (time.perf_counter_ns() - start_ns) / 1e6

    return [once() for _ in range(runs)]


def timing(size: int, members: int) -> Timing:
    weights = backends(members)
    shares = Counter(table.build(size, weights))
    ours_ms = times_ms(table.build, size, weights, RUNS[size])
    reference_ms = times_ms(reference.build, size, weights, REFERENCE_RUNS[size])
    return Timing(
        size,
        members,
        median_ms=statistics.median(ours_ms),
        worst_ms=max(ours_ms),
        reference_ms=statistics.median(reference_ms),
        largest_share=max(shares.values()) * members / size,
        smallest_share=min(shares[name] for name in weights) * members / size,
    )


def leaving(members: int) -> Leaving:
    weights = backends(members)
    before = table.build(LEAVE_SIZE, weights)
    leavers = random.Random(members).sample(sorted(weights), min(members, LEAVERS))
    extra = []
    for leaver in leavers:
        after = table.build(
            LEAVE_SIZE, {name: weight for name, weight in weights.items() if name != leaver}
        )
        extra.append(
            sum(old not in (new, leaver) for old, new in zip(before, after, strict=True))
            / LEAVE_SIZE
        )
    return Leaving(members, len(leavers), statistics.mean(extra), max(extra))


def run() -> Result:
    """Measure everything, within about a minute."""
    return Result(
        tuple(timing(size, members) for size in SIZES for members in MEMBERS),
        tuple(leaving(members) for members in LEAVE_MEMBERS),
    )


def timings_table(timings: tuple[Timing, ...]) -> Table:
    shown = Table(title="building the table, equal weights")
    for column in (
        "slots",
        "members",
        "median",
        "worst",
        "limit",
        "plain reference",
        "ratio",
        "largest share",
        "smallest share",
    ):
        shown.add_column(column, justify="right")
    for row in timings:
        limit_ms = LIMITS_MS.get(row.size)
        shown.add_row(
            f"{row.size:,}",
            f"{row.members:,}",
            f"{row.median_ms:.2f} ms",
            f"{row.worst_ms:.2f} ms",
            f"{limit_ms:,} ms" if limit_ms else "",
            f"{row.reference_ms:.2f} ms",
            f"{row.reference_ms / row.median_ms:.1f}",
            f"{row.largest_share:.4f}",
            f"{row.smallest_share:.4f}",
        )
    return shown


def leavings_table(leavings: tuple[Leaving, ...]) -> Table:
    shown = Table(title=f"one member leaves {LEAVE_SIZE:,} slots: what moves beyond its own")
    for column in ("members", "leavers tried", "average", "worst"):
        shown.add_column(column, justify="right")
    for row in leavings:
        shown.add_row(
            f"{row.members:,}", str(row.leavers), f"{row.average:.3%}", f"{row.worst:.3%}"
        )
    return shown


def main() -> None:
    """Print both tables."""
    console = Console(width=130)
    result = run()
    console.print(timings_table(result.timings), leavings_table(result.leavings))


if __name__ == "__main__":
    main()
