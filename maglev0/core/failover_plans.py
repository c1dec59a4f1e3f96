"""The buckets that one node owns now, and that it will own when one other member is gone.

The plans are computed while nothing happens. So a node that takes over from a member that crashes,
drains or leaves need not build a table first, nor need a node that gives buckets back to a member
that returns.

Pure: imports no I/O. What takes long is done in steps, and may be given up after any of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from maglev0.core.assignment import Assignment, deciding
from maglev0.core.steps import Steps
from maglev0.core.table import building
from maglev0.core.transition import Transition
from maglev0.core.view import View, id_of

# Buckets in all plans, of four bytes each: 4 MB. One node gains by all absences together about its
# own share, and loses far less, so the plans fit even for the largest table. A member whose plan
# does not fit costs a table when it leaves.
MAX_BUCKETS = 1 << 20
_DONE = object()


class _Absence(NamedTuple):
    """The change of a node's share when a certain other member is gone."""

    gains: array[int]
    losses: array[int]


class FailoverPlans:
    """What `me` owns under the current view: the one that `share` or `decided` got last.

    `ownership` is who owns what under it; `None` where this node's share was known without a table,
    until `step` has built that.
    """

    def __init__(self, me: str, total_nodes: int, *, dry_run: bool) -> None:
        self.ownership: Assignment | None = None
        self._me = me
        self._total_nodes = total_nodes
        self._dry_run = dry_run
        self._weights: Mapping[str, int] | None = None
        self._mine: frozenset[int] = frozenset()
        self._absences: dict[str, _Absence] = {}  # by who is gone
        # weights and share under the view before
        self._before: tuple[Mapping[str, int] | None, Collection[int]] = (None, ())
        self._work: Iterator[None] = iter(())

    @property
    def before(self) -> dict[int, int]:
        """The weights, by member id, that the table before the current one was built from."""
        return {id_of(name): weight for name, weight in (self._before[0] or {}).items()}

    def share(self, view: View) -> frozenset[int] | None:
        """What `me` owns under a view.

        `None` where that takes a table: the caller builds it, and calls `decided`.
        """
        weights = view.weights(dry_run=self._dry_run)
        if weights != self._weights:
            share = self._foreseen(weights)
            if share is None:
                return None
            self._take(view, weights, share, None)
        return self._mine

    def _foreseen(self, weights: Mapping[str, int]) -> frozenset[int] | None:
        if self._me not in weights:
            return frozenset()
        if weights == self._before[0]:
            return frozenset(self._before[1])
        known = self._weights or {}
        gone = known.keys() - weights.keys()
        absence = (
            self._absences.get(min(gone))
            if len(gone) == 1 and weights.items() <= known.items()
            else None
        )
        return (
            None if absence is None else self._mine.difference(absence.losses).union(absence.gains)
        )

    def decided(self, view: View, ownership: Assignment) -> frozenset[int]:
        """What `me` owns under a view for which the caller has built the table."""
        self._take(view, view.weights(dry_run=self._dry_run), ownership.of(self._me), ownership)
        return self._mine

    def _take(
        self,
        view: View,
        weights: Mapping[str, int],
        share: frozenset[int],
        ownership: Assignment | None,
    ) -> None:
        self._before = self._weights, self._mine
        self._weights, self._mine, self.ownership, self._absences = weights, share, ownership, {}
        self._work = self._ahead(view, weights)

    def step(self) -> bool:
        """Do a step, of about a millisecond, of the work for quiet times.

        Returns whether there is more to do.
        """
        return next(self._work, _DONE) is not _DONE

    def _ahead(self, view: View, weights: Mapping[str, int]) -> Steps[None]:
        ownership = yield from self._catch_up(view)
        yield from self._look_ahead(weights, ownership.table)

    def _catch_up(self, view: View) -> Steps[Assignment]:
        # a set takes twenty times the memory of an array
        self._before = self._before[0], array("I", self._before[1])
        if self.ownership is None:
            self.ownership = yield from deciding(view, self._total_nodes, dry_run=self._dry_run)
        return self.ownership

    def _look_ahead(self, weights: Mapping[str, int], owners: tuple[str, ...]) -> Steps[None]:
        room = MAX_BUCKETS
        for gone in sorted(weights.keys() - {self._me}) if self._me in weights else ():
            absence = yield from self._without(gone, weights, owners)
            room -= len(absence.gains) + len(absence.losses)
            if room < 0:
                return
            self._absences[gone] = absence

    def _without(
        self, gone: str, weights: Mapping[str, int], owners: tuple[str, ...]
    ) -> Steps[_Absence]:
        staying = {name: weight for name, weight in weights.items() if name != gone}
        change = Transition(owners, (yield from building(self._total_nodes, staying)))
        gains, losses = yield from change.moving(self._me)
        return _Absence(array("I", gains), array("I", losses))
