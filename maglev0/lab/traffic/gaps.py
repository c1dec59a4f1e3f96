"""Computes from a tally which sources moved between nodes, and how long each went unserved.

All flows of one prober address belong to one bucket. Pure: imports no I/O.

The client only samples a source: it knows the last request answered before a gap, the requests
lost in the gap, and the first one answered after it. A gap lasts at least from the first to the
last lost request, and at most from the last answered to the first answered one. Buckets that a node
releases or acquires in one transaction share one gap, so their samples are combined: the common gap
contains the lost samples of all these buckets and none of the answered ones. This bounds the gap as
closely as if one bucket had been sampled at the rate of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from maglev0.lab.traffic.tally import Tally


class Passage(NamedTuple):
    """A gap or a move of one source.

    `old` and `new` are the owners before and after; `old` is None where no node had answered yet,
    `new` is None where no node answered until the end. The times are sending times: `last_ns` of
    the last request answered before the gap, `next_ns` of the first answered after it,
    `lost_from_ns` and `lost_to_ns` of the first and last lost between them (0 where none was lost).
    """

    source: int
    old: int | None
    new: int | None
    last_ns: int
    next_ns: int
    lost: int
    lost_from_ns: int
    lost_to_ns: int

    @property
    def began_ns(self) -> int:
        """A time that belongs to the cause: the first loss, else the new owner's first answer."""
        return self.lost_from_ns or self.next_ns


@dataclass
class _SourceWalk:
    """The state of reading one source's requests."""

    owner: int | None = None
    last_ns: int = 0
    lost: int = 0
    lost_from_ns: int = 0
    lost_to_ns: int = 0


def passages(tally: Tally, end_ns: int) -> Iterator[Passage]:
    """Yield the moves and gaps of every source; those of one source are in order of time.

    Requests sent after `end_ns` are ignored.
    """
    walks: dict[int, _SourceWalk] = {}
    for number in range(len(tally)):
        sent_ns = tally.sent_ns[number]
        if sent_ns > end_ns:
            break
        source, owner = tally.sources[number], tally.owner(number)
        walk = walks.setdefault(source, _SourceWalk())
        if owner is None:
            walk.lost += 1
            walk.lost_from_ns = walk.lost_from_ns or sent_ns
            walk.lost_to_ns = sent_ns
            continue
        if walk.lost or walk.owner not in (None, owner):
            yield _passage(source, walk, owner, sent_ns)
        walks[source] = _SourceWalk(owner, sent_ns)
    for source, walk in walks.items():
        if walk.lost:
            yield _passage(source, walk, None, end_ns)


def _passage(source: int, walk: _SourceWalk, new: int | None, next_ns: int) -> Passage:
    return Passage(
        source,
        walk.owner,
        new,
        walk.last_ns or walk.lost_from_ns,
        next_ns,
        walk.lost,
        walk.lost_from_ns,
        walk.lost_to_ns,
    )


class Gap(NamedTuple):
    """A passage and the bounds of its unserved time in seconds.

    The bounds come from the samples of all sources that shared the gap.
    """

    passage: Passage
    least_s: float
    most_s: float

    @property
    def length_s(self) -> float:
        """The middle between the bounds; 0 where nothing was lost."""
        return (self.least_s + self.most_s) / 2 if self.least_s or self.passage.lost else 0.0


def gaps(found: Iterable[Passage]) -> list[Gap]:
    """The gap of each passage."""
    groups: dict[tuple[int | None, int | None], list[Passage]] = {}
    for passage in found:
        groups.setdefault((passage.old, passage.new), []).append(passage)
    return [
        gap for group in groups.values() for shared in _sharing(group) for gap in _measured(shared)
    ]


@dataclass
class _SharedGap:
    """Passages that one gap may explain; the gap lies after `last_ns` and before `next_ns`."""

    members: list[Passage]
    last_ns: int
    next_ns: int
    lost_from_ns: int
    lost_to_ns: int

    def take(self, passage: Passage) -> bool:
        """Add a passage and return True if one gap may still explain all samples."""
        last_ns, next_ns = max(self.last_ns, passage.last_ns), min(self.next_ns, passage.next_ns)
        lost_from_ns = min(self.lost_from_ns, passage.lost_from_ns or self.lost_from_ns)
        lost_to_ns = max(self.lost_to_ns, passage.lost_to_ns)
        if last_ns >= next_ns or last_ns > lost_from_ns or next_ns < lost_to_ns:
            return False
        self.members.append(passage)
        self.last_ns, self.next_ns, self.lost_from_ns, self.lost_to_ns = (
            last_ns,
            next_ns,
            lost_from_ns,
            lost_to_ns,
        )
        return True


def _sharing(group: list[Passage]) -> list[list[Passage]]:
    found: list[_SharedGap] = []
    for passage in sorted(group, key=lambda passage: passage.last_ns):
        if not any(shared.take(passage) for shared in found[-1:]):
            lost_from_ns = passage.lost_from_ns or passage.next_ns
            found.append(
                _SharedGap(
                    [passage], passage.last_ns, passage.next_ns, lost_from_ns, passage.lost_to_ns
                )
            )
    return [shared.members for shared in found]


def _measured(shared: list[Passage]) -> Iterator[Gap]:
    last_ns = max(passage.last_ns for passage in shared)
    next_ns = min(passage.next_ns for passage in shared)
    lost_from_ns = min((passage.lost_from_ns for passage in shared if passage.lost), default=0)
    lost_to_ns = max(passage.lost_to_ns for passage in shared)
    for passage in shared:
        yield Gap(passage, (lost_to_ns - lost_from_ns) / 1e9, (next_ns - last_ns) / 1e9)


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie; 0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
