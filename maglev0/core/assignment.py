"""From a view to what one node owns.

Pure: imports no I/O.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from maglev0.core import table
from maglev0.core.steps import Steps, finished
from maglev0.core.view import View, name_of

_STEP = 8192  # slots that one step looks through: at most 0.1 µs each


@dataclass(frozen=True)
class Assignment:
    """Who owns what under one view: `table[j]` is the name of the owner of node number j+1; the empty table has no owner anywhere."""

    ids: tuple[int, ...]
    table: tuple[str, ...]

    def of(self, name: str) -> frozenset[int]:
        """The node numbers that a member owns."""
        return finished(numbers_of(name, self.table))


def decide(view: View, total_nodes: int, *, dry_run: bool) -> Assignment:
    """Compute the ownership that every node computes from that view."""
    return finished(deciding(view, total_nodes, dry_run=dry_run))


def deciding(view: View, total_nodes: int, *, dry_run: bool) -> Steps[Assignment]:
    """Do the same as `decide` in steps of about a millisecond or less."""
    weights = view.weights(dry_run=dry_run)
    ids = tuple(member.id for member in view.members if name_of(member.id) in weights)
    return Assignment(ids, (yield from table.building(total_nodes, weights)) if weights else ())


def numbers_of(name: str, owned_by: tuple[str, ...]) -> Steps[frozenset[int]]:
    """The node numbers that a member owns by that table."""
    numbers: list[int] = []
    for start in range(0, len(owned_by), _STEP):
        slot = start - 1
        with suppress(
            ValueError
        ):  # there is no further one; `index` is what passes over the others' slots fastest
            while True:
                slot = owned_by.index(name, slot + 1, start + _STEP)
                numbers.append(slot + 1)
        yield
    return frozenset(numbers)
