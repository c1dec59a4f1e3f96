"""What a node does while nothing is left to do for the view: log, plans, tidying the kernel."""

from __future__ import annotations

import asyncio
import math
import time

from maglev0.daemon.ownership_log import OwnershipLog
from maglev0.daemon.planner import Planner
from maglev0.daemon.reconciler import Reconciler
from maglev0.protocol.handover import NOTHING, Phase
from maglev0.protocol.participant import Participant
from maglev0.runtime.waiting import first_of, woken

# Parts of a core. The log waits for the table of the current view, some 50 ms at 65,537 buckets;
# failover plans, some 0.2 s for each member, are needed only by the next change.
TABLE_PART = 1 / 2
PLANS_PART = 1 / 10


class IdleWork:
    """Works a little at a time, and stops when `awake` is set: a change never waits for it."""

    def __init__(
        self,
        part: Participant,
        planner: Planner,
        reconciler: Reconciler,
        ownership_log: OwnershipLog,
        awake: asyncio.Event,
    ) -> None:
        self._part = part
        self._planner = planner
        self._reconciler = reconciler
        self._log = ownership_log
        self._awake = awake
        self._tidied: frozenset[int] | None = None  # what was held when the kernel was tidied last

    async def wait(self, until_s: float, most_s: float = math.inf) -> None:
        """Return when `awake` is set, at `until_s` of CLOCK_MONOTONIC, or after `most_s`."""
        wait_s = min(most_s, max(0.0, until_s - time.monotonic()))
        await woken(self._awake, None if wait_s == math.inf else wait_s)

    async def use(self, until_s: float) -> None:
        """Work until all is done or `awake` is set, then wait as `wait` does."""
        acquired = self._part.handover.stage is Phase.ACQUIRED
        while (
            acquired and self._planner.ownership is None and await self._worked(TABLE_PART, until_s)
        ):
            pass
        if self._awake.is_set():
            return
        await self._write_log()
        if acquired:
            await self._tidy()
        while acquired and await self._worked(PLANS_PART, until_s):
            pass
        await self.wait(until_s)

    async def _worked(self, part: float, until_s: float) -> bool:
        """Work on plans for a moment, using that part of a core; return whether to go on."""
        start_s = time.monotonic()
        is_more = self._planner.work()
        await self.wait(until_s, (time.monotonic() - start_s) * (1 / part - 1))
        return is_more and not self._awake.is_set() and time.monotonic() < until_s

    async def _write_log(self) -> None:
        handover = self._part.handover
        if handover.stage is Phase.ACQUIRED:
            await self._log.serving(self._planner.ownership, handover.held)
        elif not self._part.node_state.is_member:
            await self._log.outside()

    async def _tidy(self) -> None:
        """Have the kernel end the last move, unless a change comes: the next move is smaller then.

        A node without peers skips it: to hold all buckets twice takes the most memory, and the next
        node to join takes away so much that nothing is gained.
        """
        held = self._part.handover.held

        async def settle() -> None:
            await self._reconciler.stage(NOTHING)
            self._tidied = held

        if self._tidied is not held and self._part.handover.peers:
            await first_of(settle(), self._awake.wait())
