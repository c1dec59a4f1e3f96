"""Whether every bucket has exactly one owner, by what all kernels really hold.

Pure: imports no I/O. The time is handed in, as seconds of one steadily running clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from maglev0 import nodereport
from maglev0.nodereport import NodeReport
from maglev0.view import name_of


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


def strangers(shares: Mapping[int, frozenset[int]], reports: Mapping[int, NodeReport], total_nodes: int) -> tuple[int, ...]:
    """The members whose kernel holds something else than their share, by the digest in their report."""
    return tuple(member for member, share in shares.items() if member in reports and reports[member].digest != nodereport.digest(total_nodes, share))


def judge(total_nodes: int, held: Mapping[int, frozenset[int]], unknown: tuple[int, ...] = ()) -> Findings:
    """Find what two members hold, and what nobody does; who is unknown is taken at the word of the table, and has its share in `held`."""
    owners: dict[int, list[int]] = {}
    for member, buckets in sorted(held.items()):
        for bucket in buckets:
            owners.setdefault(bucket, []).append(member)
    overlaps = {bucket: tuple(members) for bucket, members in sorted(owners.items()) if len(members) > 1}
    holes = frozenset(range(1, total_nodes + 1)) - owners.keys() if len(owners) < total_nodes else frozenset[int]()
    return Findings(overlaps, holes, unknown)


class Alarms:
    """Tells a fault from a hand-over by how long it lasts: longer than `patience_s`, without a break, it is one."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[str, float] = {}
        self._raised: set[str] = set()

    def note(self, findings: Findings, now_s: float) -> Iterator[tuple[str, bool]]:
        """Take what was found now; yields each alarm that begins (True) or ends (False), as words."""
        current = dict(_words(findings))
        self._since = {kind: self._since.get(kind, now_s) for kind in current}
        for kind, words in current.items():
            if kind not in self._raised and now_s - self._since[kind] >= self._patience_s:
                self._raised.add(kind)
                yield words, True
        for kind in sorted(self._raised - current.keys()):
            self._raised.remove(kind)
            yield f"no {kind} any more", False

    def standing_s(self, now_s: float) -> float:
        """For how long there has been a fault; 0 where there is none."""
        return now_s - min(self._since.values(), default=math.inf) if self._since else 0.0


def _words(findings: Findings) -> Iterator[tuple[str, str]]:
    if findings.overlaps:
        bucket, members = next(iter(findings.overlaps.items()))
        who = ", ".join(map(name_of, members))
        yield "overlaps", f"overlap: {_counted(len(findings.overlaps))} in force on two nodes at once, as {bucket} on {who}"
    if findings.holes:
        yield "holes", f"hole: {_counted(len(findings.holes))} in force nowhere, as {min(findings.holes)}"


def _counted(count: int) -> str:
    return "1 bucket is" if count == 1 else f"{count} buckets are"
