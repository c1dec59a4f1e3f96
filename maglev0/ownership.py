"""From a view to what one node owns, and whether it takes part at all.

Pure: imports no I/O.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from maglev0 import table
from maglev0.view import View, name_of


class Standing(enum.Enum):
    """What the children of the parent znode say about one node's id."""

    ABSENT = "absent"
    MEMBER = "member"
    HELD = "held by another session"


def standing(sessions: Mapping[int, int], my_id: int, session_id: int) -> Standing:
    """Compare the session that holds `my_id` (`sessions`: id -> ephemeral owner) with one's own.

    A znode under one's id proves nothing by itself: it may be that of a session that is dying, or of a second daemon.
    """
    if my_id not in sessions:
        return Standing.ABSENT
    return Standing.MEMBER if sessions[my_id] == session_id else Standing.HELD


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
