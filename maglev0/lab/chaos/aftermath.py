"""What happened to the buckets of a lost node.

Its last answer, the first ones of other nodes, how many.

Pure: imports no I/O.
"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maglev0.lab.traffic.gaps import quantile

if TYPE_CHECKING:
    from maglev0.lab.chaos.episodes import Episode, Timeline
    from maglev0.lab.traffic.tally import Tally


@dataclass
class Loss:
    """All losses of one cause, in seconds after the loss.

    `affected` are the shares of the sources that went without an answer.
    """

    silent_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    all_s: list[float] = field(default_factory=list)
    affected: list[float] = field(default_factory=list)


def losses(tally: Tally, timeline: Timeline) -> dict[str, Loss]:
    """By cause, every episode in which one node was lost."""
    found: dict[str, Loss] = {}
    ends_ns = [*(episode.since_ns for episode in timeline.episodes[1:]), timeline.until_ns]
    for episode, end_ns in zip(timeline.episodes, ends_ns, strict=True):
        nodes = episode.allowance.nodes or ()
        if not episode.allowance.planned and len(nodes) == 1:
            _add(found.setdefault(episode.cause, Loss()), tally, episode, min(nodes), end_ns)
    return found


def _add(loss: Loss, tally: Tally, episode: Episode, node: int, end_ns: int) -> None:
    last_ns: dict[int, int] = {}  # by source, when the lost node answered last
    next_ns: dict[int, int] = {}  # and when another did first, after that
    unserved: set[int] = set()
    start = bisect(tally.sent_ns, episode.since_ns - 1_000_000_000)
    for number in range(start, bisect(tally.sent_ns, end_ns)):
        source, owner, sent_ns = tally.sources[number], tally.owner(number), tally.sent_ns[number]
        if owner == node:
            last_ns[source] = sent_ns
            next_ns.pop(source, None)
        elif owner is not None and source in last_ns:
            next_ns.setdefault(source, sent_ns)
        elif owner is None and sent_ns >= episode.since_ns:
            unserved.add(source)
    since_ns = episode.since_ns
    if not next_ns:
        return
    loss.silent_s.append((max(last_ns.values()) - since_ns) / 1e9)
    loss.first_s.append((min(next_ns.values()) - since_ns) / 1e9)
    loss.all_s.append((max(next_ns.values()) - since_ns) / 1e9)
    loss.affected.append(len(unserved) / len(set(tally.sources[start : start + 10_000])))


def lines(tally: Tally, timeline: Timeline) -> list[str]:
    """As text; none where nothing was lost."""
    found = []
    for cause, loss in losses(tally, timeline).items():
        rows = {
            "its kernel answered last": loss.silent_s,
            "others answered first": loss.first_s,
            "all its buckets were served again": loss.all_s,
        }
        for what, values in rows.items():
            figures = (
                f"median {quantile(values, 0.5):.3f} s, 90 % {quantile(values, 0.9):.3f} s, "
                f"most {max(values, default=0.0):.3f} s"
            )
            found.append(f"{cause}: {what} after {figures} ({len(values)} times)")
        found.append(
            f"{cause}: sources without an answer at some time: "
            f"median {quantile(loss.affected, 0.5):.1%}"
        )
    return found
