"""From a view to what one node owns.

Pure: imports no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from maglev0 import table
from maglev0.view import View, name_of


@dataclass(frozen=True)
class Ownership:
    """Who owns what under one view: `table[j]` is the name of the owner of node number j+1; the empty table has no owner anywhere."""

    ids: tuple[int, ...]
    table: tuple[str, ...]

    def of(self, name: str) -> frozenset[int]:
        """The node numbers that a member owns."""
        return frozenset(number for number, owner in enumerate(self.table, 1) if owner == name)


def decide(view: View, total_nodes: int, *, dry_run: bool) -> Ownership:
    """Compute the ownership that every node computes from that view."""
    weights = view.weights(dry_run=dry_run)
    ids = tuple(member.id for member in view.members if name_of(member.id) in weights)
    return Ownership(ids, table.build(total_nodes, weights) if weights else ())
