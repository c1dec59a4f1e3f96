"""Counts a node's connections, and stops keeping buckets in which there are none any more."""

from __future__ import annotations

import asyncio
import logging
import time

from maglev0.core.view import DRAINING, ViewId
from maglev0.errors import DataplaneError
from maglev0.protocol.handover import Phase
from maglev0.protocol.participant import Participant
from maglev0.protocol.progress import ConnectionCount

log = logging.getLogger(__name__)

# A count makes the kernel walk the connection tracking table of its whole host. The pause after it
# is at least so long, and at least so many times as long as the count took.
SWEEP_S = 1.0  # while connections are kept, or a drain waits for the number
SWEEP_COST = 50
COUNT_S = 15.0  # otherwise
COUNT_COST = 300


class Sweeper:
    """The one place in which a node counts connections: two counts never run side by side.

    `count` is the latest one, `None` while the number is unknown; `reason` says why it is.
    """

    def __init__(self, part: Participant) -> None:
        self.count: ConnectionCount | None = None
        self.reason = ""
        self._part = part
        self._lock = asyncio.Lock()  # a sweep remembers what the one before found
        self._cost_s = 0.0
        self._ended_s = time.monotonic()

    async def run(self) -> None:
        """Sweep for ever, as often as that is cheap."""
        await self.sweep()
        while True:
            await asyncio.sleep(SWEEP_S)
            if time.monotonic() - self._ended_s >= self._pause_s():
                await self.sweep()

    def _pause_s(self) -> float:
        if self._part.node_state.kept or self._is_awaited():
            return max(SWEEP_S, SWEEP_COST * self._cost_s)
        return max(COUNT_S, COUNT_COST * self._cost_s)

    def _is_awaited(self) -> bool:
        """Whether `maglev0 drain` waits for a count from after the hand-over."""
        under = self._handed_over()
        return (
            self._part.node_state.me.state == DRAINING
            and under is not None
            and (self.count is None or self.count.under != under)
        )

    async def sweep(self) -> ConnectionCount | None:
        """Count once, and return the count: `None` where the kernel did not tell the number."""
        async with self._lock:
            under, start_s = self._handed_over(), time.monotonic()
            try:
                self.count = ConnectionCount(await self._part.sweep(), under)
                self.reason = ""
            except DataplaneError as error:
                log.debug("connections not counted: %s", error)
                self.count, self.reason = None, str(error)
            self._ended_s = time.monotonic()
            self._cost_s = self._ended_s - start_s
            return self.count

    def _handed_over(self) -> ViewId | None:
        """The view whose hand-over this node has finished."""
        handover = self._part.handover
        return handover.obeys if handover.stage is Phase.ACQUIRED else None
