"""The change of the whole assignment from one view to the next, and one member's part in it.

Pure: imports no I/O.
"""

from __future__ import annotations

from typing import NamedTuple

from maglev0.core.assignment import buckets_of
from maglev0.core.steps import Steps, finished


class Move(NamedTuple):
    """One member's part of a change: the buckets that it gains and those that it loses.

    The two have nothing in common.
    """

    gains: frozenset[int]
    losses: frozenset[int]

    @classmethod
    def between(cls, held: frozenset[int], wanted: frozenset[int]) -> Move:
        """What turns the buckets that are held into those that are wanted."""
        return cls(gains=wanted - held, losses=held - wanted)


class Transition(NamedTuple):
    """Who owns each bucket before and after a change of the view.

    Both are tables as in `Assignment.table`: the name of the owner of bucket j+1 at place j; the
    empty table has no owner anywhere.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]

    def gains(self, me: str) -> frozenset[int]:
        """The buckets that `me` owns after the change and not before."""
        return finished(self.moving(me)).gains

    def losses(self, me: str) -> frozenset[int]:
        """The buckets that `me` owns before the change and not after."""
        return finished(self.moving(me)).losses

    def moving(self, me: str) -> Steps[Move]:
        """Compute the part of `me` in steps of about a millisecond or less."""
        held = yield from buckets_of(me, self.before)
        wanted = yield from buckets_of(me, self.after)
        return Move.between(held, wanted)
