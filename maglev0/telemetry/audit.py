"""Whether every bucket has exactly one owner, by what all kernels really hold.

Pure: imports no I/O. The time is handed in, as seconds of one steadily running clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from maglev0.core.view import name_of
from maglev0.telemetry import node_report
from maglev0.telemetry.node_report import NodeReport


@dataclass(frozen=True)
class Findings:
    """Buckets with two owners or more, with their owners' ids, and buckets without any.

    `unknown` are the members who have not said what they hold.
    """

    overlaps: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    holes: frozenset[int] = frozenset()
    unknown: tuple[int, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether every bucket has exactly one owner, as far as is known."""
        return not self.overlaps and not self.holes


def strangers(
    shares: Mapping[int, frozenset[int]], reports: Mapping[int, NodeReport], total_nodes: int
) -> tuple[int, ...]:
    """The members whose kernel holds something else than their share, by the digest in their report."""
    return tuple(
        member
        for member, share in shares.items()
        if member in reports and reports[member].digest != node_report.digest(total_nodes, share)
    )


def judge(
    total_nodes: int, held: Mapping[int, frozenset[int]], unknown: tuple[int, ...] = ()
) -> Findings:
    """Find what two members hold, and what nobody does; who is unknown is taken at the word of the table, and has its share in `held`."""
    # By whole sets: a loop over a million buckets would keep the daemon's own loop from its renewals.
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
    """Tells faults from hand-overs by how long they last: a bucket that is at fault for `patience_s` without a break is a fault.

    Hand-overs that follow each other concern other buckets each.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self._since: dict[str, dict[int, float]] = {"overlaps": {}, "holes": {}}
        self._raised: set[str] = set()

    def note(self, findings: Findings, now_s: float) -> list[tuple[str, bool]]:
        """Take what was found now; returns each alarm that begins (True) or ends (False), as words."""
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
                news.append((_words(kind, findings, standing), True))
            elif not standing and kind in self._raised:
                self._raised.remove(kind)
                news.append((f"no {kind} any more", False))
        return news

    def standing_s(self, now_s: float) -> float:
        """For how long some bucket has been at fault; 0 where none is."""
        since = [since_s for buckets in self._since.values() for since_s in buckets.values()]
        return now_s - min(since) if since else 0.0


def _words(kind: str, findings: Findings, standing: list[int]) -> str:
    bucket = min(standing)
    how_many = "1 bucket is" if len(standing) == 1 else f"{len(standing)} buckets are"
    if kind == "overlaps":
        return f"overlap: {how_many} in force on several nodes at once, as {bucket} on {', '.join(map(name_of, findings.overlaps[bucket]))}"
    return f"hole: {how_many} in force nowhere, as {bucket}"
