"""The arithmetic of leases: how long this node's own runs, and when another's is certainly over.

Pure: imports no I/O. All times are seconds of this node's own CLOCK_MONOTONIC.

A node's kernel accepts new flows for `length_s` from the instant at which a timer was started
*before* a renewal was sent. A renewal is worth that only if it took place and, read right after it,
the parent's stat still showed the view that the kernel obeyed. So:

1. Whatever a node's kernel accepts at time t, it accepts on a renewal that was sent after
   t - length_s and before the next view came into being.
2. Another member's lease znode last changed at zxid z. A write of this node with a larger zxid, or
   a reading of this node that showed z, was answered at its time r. If the other's member znode is
   gone, so that no renewal can follow, all its renewals that ever took place were sent before r,
   and at r + length_s its kernel has stopped by itself.
3. A member still obeys an older view than the one that this node saw at its time s. No renewal that
   the member sent after s is worth anything before it obeys what this node saw, and at s + length_s
   its kernel has stopped.

The margin is for clocks that run at different speeds, and for the kernel's timers, which tick 100
to 1,000 times a second.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

RENEWALS_PER_LEASE = 4  # three may be lost or late before the lease ends
LEAST_MARGIN_S = 0.02  # two ticks of a kernel with HZ=100
DRIFT = 0.01  # NTP slews by 0.05 %; cheap oscillators stay below a tenth of this
# Mostly own renewals; at four a lease they reach back over 16 leases, longer than any session that
# can be missed.
REMEMBERED = 64


class Terms(NamedTuple):
    """The cluster's times of leases, in seconds.

    `length_s` is how long a lease is, `margin_s` what is added before another's counts as over,
    `interval_s` the time between two renewals.
    """

    length_s: float
    margin_s: float
    interval_s: float

    @property
    def over_s(self) -> float:
        """The time after the last possible renewal of another until its lease is over."""
        return self.length_s + self.margin_s


def terms(lease_ms: int) -> Terms:
    """The times that follow from the length of a lease."""
    length_s = lease_ms / 1000
    return Terms(length_s, max(LEAST_MARGIN_S, DRIFT * length_s), length_s / RENEWALS_PER_LEASE)


class Dates:
    """Places in ZooKeeper's order of changes that were reached by some time of this node's clock.

    This node's own writes show them at no cost.
    """

    def __init__(self) -> None:
        self._known: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)

    def reached(self, zxid: int, at_s: float) -> None:
        """Remember that all changes up to this one had taken place by then."""
        self._known.append((zxid, at_s))

    def of(self, zxid: int, read_at_s: float) -> float:
        """By when a change that was read at `read_at_s` had taken place for certain."""
        return min((at_s for known, at_s in self._known if known >= zxid), default=read_at_s)


class Others:
    """The leases of all that are no members any more, and when each is over."""

    def __init__(self, agreed: Terms) -> None:
        self._terms = agreed
        # By member: zxid of its last change (0: unknown), and from when on it is over.
        self._ends: dict[int, tuple[int, float]] = {}

    def last_changed(self, member: int, zxid: int, date_s: float) -> None:
        """The lease znode of a departed member last changed at `zxid`, before `date_s`.

        The earliest date that is known for a change counts.
        """
        known, over_at = self._ends.get(member, (0, math.inf))
        end = date_s + self._terms.over_s
        self._ends[member] = (zxid, min(end, over_at) if known == zxid else end)

    def unknown(self, member: int, since_s: float) -> None:
        """A member is gone, and may leave no lease znode to judge by.

        Unless its znode is or was read, its lease counts from `since_s`, when this was seen.
        """
        zxid, _over_at = self._ends.get(member, (0, -math.inf))
        if not zxid:
            self._ends[member] = (0, since_s + self._terms.over_s)

    def forget(self, members: frozenset[int]) -> None:
        """These are released, or members again.

        Before they joined, everybody waited for what was left of their earlier lives.
        """
        self._ends = {member: end for member, end in self._ends.items() if member not in members}

    def over_at(self) -> float:
        """From when on all of them are over; minus infinity where there is none."""
        return max((at for _zxid, at in self._ends.values()), default=-math.inf)
