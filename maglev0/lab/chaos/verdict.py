"""Compares what clients saw with what each episode allows: counts, percentiles, faults, slow gaps.

A fault is a double answer, a broken connection or a bucket that stays unserved: no machine may be
so slow that it happens. A slow gap exceeds a bound in time, as it may on a machine whose cores are
busy with something else; it counts on an idle machine.
Pure: imports no I/O.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maglev0.lab.chaos.episodes import PLANNED_GAP_S, PLANNED_QUANTILE, Episode, Timeline
from maglev0.lab.traffic.gaps import Gap, gaps, passages, quantile
from maglev0.lab.traffic.raw import RequestKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from maglev0.lab.traffic.held import Turn
    from maglev0.lab.traffic.tally import Tally

QUANTILES = (0.5, 0.9, 0.99)
# The answers to the last requests may not have come when the client stopped.
TAIL_NS = 200_000_000
# TCP sends again after 200 ms and then after twice as long each time (RFC 6298): an answer may come
# so much later than the end of the gap.
STALL_SLACK_S = 1.0
# The report lists so many of each sort; the first ones tell the story.
MOST_REPORTED = 20
# The sorts that are bounds in time; all others are faults.
SLOW = frozenset({"quiet", "gap", "stall", "gaps"})


@dataclass
class CauseRow:
    """All episodes of one cause together.

    `gaps_s` has one value in seconds for each bucket that moved or went unserved, `outside_s` those
    of the buckets of other nodes.
    """

    cause: str
    times: int = 0
    asked: int = 0
    lost: int = 0
    doubles: int = 0
    held: int = 0
    gaps_s: list[float] = field(default_factory=list)
    outside_s: list[float] = field(default_factory=list)
    bound_s: float = 0.0
    broken: Counter[str] = field(default_factory=Counter)
    stalls_s: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """The row as numbers, for JSON."""
        measured = {
            f"gap_p{round(share * 100)}_s": quantile(self.gaps_s, share) for share in QUANTILES
        }
        worst = {
            "gap_max_s": max(self.gaps_s, default=0.0),
            "stall_max_s": max(self.stalls_s, default=0.0),
        }
        counts = {
            name: getattr(self, name)
            for name in ("cause", "times", "asked", "lost", "doubles", "held")
        }
        return (
            counts
            | {"moved": len(self.gaps_s), "bound_s": self.bound_s}
            | measured
            | worst
            | {"broken": dict(self.broken)}
        )


@dataclass
class TrialVerdict:
    """The whole report: a row for each cause, the faults, and the bounds in time exceeded."""

    rows: dict[str, CauseRow]
    faults: list[str]
    slow: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether there is neither a fault nor a slow gap."""
        return not (self.faults or self.slow)


def judge(
    tally: Tally,
    turns: Iterable[Turn],
    timeline: Timeline,
    *,
    hold: bool = False,
    idle: bool = False,
) -> TrialVerdict:
    """Compare everything with its episode.

    With `hold` double answers are counted, but are no fault.

    `idle` says that nothing but the cluster and its clients kept the machine busy: only there the
    percentiles of planned changes have bounds.
    """
    return _Judge(timeline, hold=hold, idle=idle).judge(tally, turns)


class _Judge:
    def __init__(self, timeline: Timeline, *, hold: bool, idle: bool) -> None:
        self._timeline = timeline
        self._hold = hold
        self._idle = idle
        self._start_ns = timeline.episodes[0].since_ns
        self._rows: dict[str, CauseRow] = {}
        self._found: dict[str, list[str]] = {}  # by sort

    def judge(self, tally: Tally, turns: Iterable[Turn]) -> TrialVerdict:
        for episode in self._timeline.episodes:
            row = self._row(episode)
            row.times += 1
            row.held += episode.held
            row.bound_s = max(row.bound_s, episode.allowance.gap_s)
        self._count(tally)
        self._judge_gaps(tally)
        for turn in turns:
            self._judge_turn(turn)
        if self._idle:
            self._judge_percentiles()
        return TrialVerdict(
            self._rows, list(self._listed(slow=False)), list(self._listed(slow=True))
        )

    def _row(self, episode: Episode) -> CauseRow:
        return self._rows.setdefault(episode.cause, CauseRow(episode.cause))

    def _blame(self, sort: str, at_ns: int, text: str) -> None:
        episode = self._timeline.at(at_ns)
        note = f" ({episode.note})" if episode.note else ""
        self._found.setdefault(sort, []).append(
            f"{(at_ns - self._start_ns) / 1e9:.3f} s, {episode.cause}{note}: {text}"
        )

    def _listed(self, *, slow: bool) -> Iterator[str]:
        for sort, found in self._found.items():
            if (sort in SLOW) == slow:
                yield from (f"{sort}: {text}" for text in found[:MOST_REPORTED])
                if len(found) > MOST_REPORTED:
                    yield f"{sort}: {len(found) - MOST_REPORTED} more"

    def _count(self, tally: Tally) -> None:
        for number in range(len(tally)):
            sent_ns = tally.sent_ns[number]
            row = self._row(self._timeline.at(sent_ns))
            row.asked += 1
            row.lost += not tally.nodes[number]
            if tally.is_double(number):
                row.doubles += 1
                if not self._hold:
                    spoke = [
                        node
                        for node in range(64)
                        if (tally.nodes[number] | tally.refusing[number]) >> node & 1
                    ]
                    what = (
                        f"{RequestKind(tally.kinds[number]).name} of source "
                        f"{tally.sources[number]} by nodes {spoke}, {tally.answers[number]} "
                        "answers"
                    )
                    self._blame("double", sent_ns, what)

    def _judge_gaps(self, tally: Tally) -> None:
        by_episode: dict[int, list[Any]] = {}
        for passage in passages(tally, self._timeline.until_ns - TAIL_NS):
            by_episode.setdefault(self._timeline.index_at(passage.began_ns), []).append(passage)
        for index, found in sorted(by_episode.items()):
            episode = self._timeline.episodes[index]
            for gap in gaps(found):
                self._judge_gap(episode, gap)

    def _judge_gap(self, episode: Episode, gap: Gap) -> None:
        passage, allowance, row = gap.passage, episode.allowance, self._row(episode)
        way = (
            f"source {passage.source} of node {passage.old}, then {passage.new}, "
            f"lost {passage.lost}"
        )
        if episode.is_quiet:
            self._blame("quiet", passage.began_ns, way)
            return
        concerned = (
            allowance.nodes is None
            or passage.old in allowance.nodes
            or passage.new in allowance.nodes
        )
        (row.gaps_s if concerned else row.outside_s).append(gap.length_s)
        if passage.new is None:
            self._blame("unserved", passage.began_ns, f"{way}, never served again")
        elif gap.least_s > allowance.gap_s:
            self._blame(
                "gap",
                passage.began_ns,
                f"{way}, for {gap.least_s:.3f} s, allowed {allowance.gap_s:.3f} s",
            )

    def _judge_turn(self, turn: Turn) -> None:
        episode = self._explaining(turn)
        row, allowance = self._row(episode), episode.allowance
        lasted_s = (turn.at_ns - turn.since_ns) / 1e9
        if turn.what == "stalled":
            row.stalls_s.append(lasted_s)
            if allowance.planned and lasted_s > max(allowance.gap_s, PLANNED_GAP_S) + STALL_SLACK_S:
                self._blame(
                    "stall",
                    turn.since_ns,
                    f"connection {turn.connection} of node {turn.node} for {lasted_s:.3f} s",
                )
        elif turn.is_break or turn.what in {"foreign", "refused"}:
            row.broken[turn.what] += 1
            if turn.node not in allowance.breaks:
                text = (
                    f"connection {turn.connection} of node {turn.node}: {turn.what}, "
                    f"noticed {lasted_s:.3f} s later"
                )
                self._blame("broken", turn.since_ns, text)

    def _explaining(self, turn: Turn) -> Episode:
        """The episode that a turn belongs to.

        Where an idle connection breaks, it is the episode since its last answer that may break it.
        """
        first, last = (self._timeline.index_at(at_ns) for at_ns in (turn.good_ns, turn.since_ns))
        since = self._timeline.episodes[first : last + 1]
        return next(
            (episode for episode in since if turn.node in episode.allowance.breaks), since[-1]
        )

    def _judge_percentiles(self) -> None:
        planned = {
            episode.cause
            for episode in self._timeline.episodes
            if episode.allowance.planned and not episode.is_quiet
        }
        for cause, row in self._rows.items():
            values = row.gaps_s if cause in planned else row.outside_s
            reached_s = quantile(values, PLANNED_QUANTILE)
            if reached_s > PLANNED_GAP_S:
                where = "" if cause in planned else " in other nodes' buckets"
                text = (
                    f"{cause}: {reached_s:.3f} s at the 99th percentile of {len(values)} "
                    f"gaps{where}, allowed {PLANNED_GAP_S} s"
                )
                self._found.setdefault("gaps", []).append(text)
