"""What one node owns, and what it will when one other member is gone, worked out while nothing happens.

So who takes over from a member that crashes, drains or leaves need not build a table first; nor need who gives back to it when it returns.

Pure: imports no I/O. What takes long is done in steps, and may be given up after any of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from maglev0.core.assignment import Assignment, deciding, numbers_of
from maglev0.core.steps import Steps
from maglev0.core.table import building
from maglev0.core.view import View, id_of

# Node numbers kept, of four bytes each: 4 MB. What one node gains by all absences together is about its own share, and what it loses far less, so
# everything fits in up to the largest table there is. Whoever does not fit costs a table when it leaves.
MAX_NUMBERS = 1 << 20
_DONE = object()


class _Absence(NamedTuple):
    """How a node's share changes when a certain other member is gone."""

    gains: array[int]
    losses: array[int]


class FailoverPlans:
    """What `me` owns under the view at hand, which is the one that `share` or `decided` was called with last.

    `ownership` is who owns what under it; `None` where this node's share was known without a table, until `step` has built that.
    """

    def __init__(self, me: str, total_nodes: int, *, dry_run: bool) -> None:
        self.ownership: Assignment | None = None
        self._me = me
        self._total_nodes = total_nodes
        self._dry_run = dry_run
        self._weights: Mapping[str, int] | None = None
        self._mine: frozenset[int] = frozenset()
        self._absences: dict[str, _Absence] = {}  # by who is gone
        self._before: tuple[Mapping[str, int] | None, Collection[int]] = (
            None,
            (),
        )  # weights and share under the view before
        self._work: Iterator[None] = iter(())

    @property
    def before(self) -> dict[int, int]:
        """The weights, by member id, that the table before the one at hand was built from."""
        return {id_of(name): weight for name, weight in (self._before[0] or {}).items()}

    def share(self, view: View) -> frozenset[int] | None:
        """What `me` owns under a view, `None` where that takes a table: then build that, and call `decided`."""
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
        """The same under a view for which a table was built."""
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
        self._work = chain(self._catch_up(view), self._look_ahead(weights))

    def step(self) -> bool:
        """Take a step, of about a millisecond, of what is worth doing in quiet times; return whether there is more to do."""
        return next(self._work, _DONE) is not _DONE

    def _catch_up(self, view: View) -> Steps[None]:
        self._before = (
            self._before[0],
            array("I", self._before[1]),
        )  # a set takes twenty times the memory
        if self.ownership is None:
            self.ownership = yield from deciding(view, self._total_nodes, dry_run=self._dry_run)

    def _look_ahead(self, weights: Mapping[str, int]) -> Steps[None]:
        room = MAX_NUMBERS
        for gone in sorted(weights.keys() - {self._me}) if self._me in weights else ():
            absence = yield from self._without(gone, weights)
            room -= len(absence.gains) + len(absence.losses)
            if room < 0:
                return
            self._absences[gone] = absence

    def _without(self, gone: str, weights: Mapping[str, int]) -> Steps[_Absence]:
        table = yield from building(
            self._total_nodes, {name: weight for name, weight in weights.items() if name != gone}
        )
        mine = yield from numbers_of(self._me, table)
        return _Absence(array("I", mine - self._mine), array("I", self._mine - mine))
