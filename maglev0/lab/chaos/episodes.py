"""What was done to the cluster when, and what clients may see of it.

Pure: imports no I/O. Times are nanoseconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

QUIET = "quiet"
# A planned change: per moved bucket, at the 99th percentile.
PLANNED_GAP_S = 0.05
PLANNED_QUANTILE = 0.99
# A request sent so shortly before a fault may still be on its way, on a machine with busy cores.
IN_FLIGHT_NS = 50_000_000


def crash_gap_s(session_timeout_s: float, tick_ms: int) -> float:
    """How long a crashed node's buckets may go unserved: session timeout, 1.5 ticks and 100 ms."""
    return session_timeout_s + 1.5 * tick_ms / 1000 + 0.1


@dataclass(frozen=True)
class Allowance:
    """What clients may see of an episode.

    `gap_s` bounds how long a bucket of `nodes` (None: of all) may be unserved. With `planned` the
    other buckets have the same bound, and all together have `PLANNED_GAP_S` at the 99th percentile.
    Connections of the nodes in `breaks` may break, by silence or a reset alone.
    """

    gap_s: float
    planned: bool = True
    nodes: frozenset[int] | None = None
    breaks: frozenset[int] = frozenset()


NOTHING = Allowance(0.0)


@dataclass
class Episode:
    """A stretch of time with one cause, which lasts until the next one begins.

    `held` connections stood at its start.
    """

    cause: str
    since_ns: int
    allowance: Allowance
    held: int = 0
    note: str = ""

    @property
    def is_quiet(self) -> bool:
        """Whether nothing was done and everything had settled."""
        return self.cause == QUIET


class Timeline:
    """All episodes in their order, and the end of the last."""

    def __init__(self, episodes: Sequence[Episode], until_ns: int) -> None:
        self.episodes = episodes
        self.until_ns = until_ns
        self._begins_ns = [
            episode.since_ns - (0 if episode.is_quiet else IN_FLIGHT_NS) for episode in episodes
        ]

    def index_at(self, at_ns: int) -> int:
        """The number of the episode that an instant belongs to."""
        return max(0, bisect_right(self._begins_ns, at_ns) - 1)

    def at(self, at_ns: int) -> Episode:
        """The episode that an instant belongs to."""
        return self.episodes[self.index_at(at_ns)]

    def duration_s(self, causes: Collection[str]) -> float:
        """How long episodes of these causes lasted together."""
        ends_ns = [*(episode.since_ns for episode in self.episodes[1:]), self.until_ns]
        return (
            sum(
                end_ns - episode.since_ns
                for episode, end_ns in zip(self.episodes, ends_ns, strict=True)
                if episode.cause in causes
            )
            / 1e9
        )
