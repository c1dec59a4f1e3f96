"""Whether every bucket has exactly one owner, by what all kernels have in force.

Pure: imports no I/O. The caller hands in the time, as seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from maglev0.core.view import name_of
from maglev0.telemetry import node_report
from maglev0.telemetry.node_report import NodeReport


@dataclass(frozen=True)
class Findings:
    """`overlaps` are buckets with two or more owners, with the owners' ids; `holes` have none.

    `unknown` are the members that have not reported what they hold.
    """

    overlaps: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    holes: frozenset[int] = frozenset()
    unknown: tuple[int, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether every bucket has exactly one owner, as far as is known."""
        return not self.overlaps and not self.holes


def differing(
    shares: Mapping[int, frozenset[int]], reports: Mapping[int, NodeReport], total_nodes: int
) -> tuple[int, ...]:
    """Return the members whose kernel does not hold their share, by their reports' digests."""
    return tuple(
        member
        for member, share in shares.items()
        if member in reports and reports[member].digest != node_report.digest(total_nodes, share)
    )


def judge(
    total_nodes: int, held: Mapping[int, frozenset[int]], unknown: tuple[int, ...] = ()
) -> Findings:
    """Find what two members hold, and what no member holds.

    The caller puts the shares of `unknown` members into `held`, as the table gives them.
    """
    # By whole sets: a loop over a million buckets would delay the daemon's renewals.
    once: set[int] = set()
    twice: set[int] = set()
    for buckets in held.values():
        twice |= once & buckets
        once |= buckets
    members = sorted(held)
    overlaps = {
        bucket: tuple(member for member in members if bucket in held[member])
        for bucket in sorted(twice)
    }
    return Findings(overlaps, frozenset(range(1, total_nodes + 1)) - once, unknown)


class Alarms:
    """Tells faults from hand-overs by their duration: a fault lasts `patience_s` in one bucket.

    Hand-overs that follow each other concern different buckets.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._since: dict[str, dict[int, float]] = {"overlaps": {}, "holes": {}}
        self._raised: set[str] = set()

    def note(self, findings: Findings, now_s: float) -> list[tuple[str, bool]]:
        """Take what was found now; return each alarm that begins (True) or ends (False)."""
        news: list[tuple[str, bool]] = []
        for kind, buckets in (("overlaps", findings.overlaps), ("holes", findings.holes)):
            before = self._since[kind]
            self._since[kind] = {bucket: before.get(bucket, now_s) for bucket in buckets}
            standing = [
                bucket
                for bucket, since_s in self._since[kind].items()
                if now_s - since_s >= self.patience_s
            ]
            if standing and kind not in self._raised:
                self._raised.add(kind)
                news.append((_text(kind, findings, standing), True))
            elif not standing and kind in self._raised:
                self._raised.remove(kind)
                news.append((f"no {kind} any more", False))
        return news

    def standing_s(self, now_s: float) -> float:
        """For how many seconds some bucket has been at fault; 0 if none is."""
        since = [since_s for buckets in self._since.values() for since_s in buckets.values()]
        return now_s - min(since) if since else 0.0


def _text(kind: str, findings: Findings, standing: list[int]) -> str:
    bucket = min(standing)
    how_many = "1 bucket is" if len(standing) == 1 else f"{len(standing)} buckets are"
    if kind == "overlaps":
        owners = ", ".join(map(name_of, findings.overlaps[bucket]))
        return f"overlap: {how_many} in force on several nodes, such as {bucket} on {owners}"
    return f"hole: {how_many} in force on no node, such as {bucket}"
