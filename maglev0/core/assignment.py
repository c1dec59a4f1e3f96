"""From a view to the buckets that each member owns.

Pure: imports no I/O.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from maglev0.core import table
from maglev0.core.steps import Steps, finished
from maglev0.core.view import View, name_of

_STEP = 8192  # buckets that one step looks through: at most 0.1 µs each


@dataclass(frozen=True)
class Assignment:
    """Who owns what under one view.

    `ids` are the members that count, in ascending order. `table[j]` is the name of the owner of
    bucket j+1; the empty table has no owner anywhere.
    """

    ids: tuple[int, ...]
    table: tuple[str, ...]

    def of(self, name: str) -> frozenset[int]:
        """The buckets that a member owns."""
        return finished(buckets_of(name, self.table))


def decide(view: View, total_nodes: int, *, dry_run: bool) -> Assignment:
    """Compute the assignment that every node computes from that view."""
    return finished(deciding(view, total_nodes, dry_run=dry_run))


def deciding(view: View, total_nodes: int, *, dry_run: bool) -> Steps[Assignment]:
    """Do the same as `decide` in steps of about a millisecond or less."""
    weights = view.weights(dry_run=dry_run)
    ids = tuple(member.id for member in view.members if name_of(member.id) in weights)
    return Assignment(ids, (yield from table.building(total_nodes, weights)) if weights else ())


def buckets_of(name: str, owners: tuple[str, ...]) -> Steps[frozenset[int]]:
    """The buckets that a member owns by a table, in steps of about a millisecond or less."""
    buckets: list[int] = []
    for start in range(0, len(owners), _STEP):
        place = start - 1
        # `index` is the fastest way past the buckets of others; ValueError: there is none further.
        with suppress(ValueError):
            while True:
                place = owners.index(name, place + 1, start + _STEP)
                buckets.append(place + 1)
        yield
    return frozenset(buckets)
