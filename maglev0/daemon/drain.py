"""The drain of one node: it hands its share over and waits for its connections to end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from maglev0.daemon.sweeper import SWEEP_S, Sweeper
from maglev0.protocol.participant import Participant
from maglev0.protocol.progress import ConnectionCount

log = logging.getLogger(__name__)

PROGRESS_S = 5.0  # between two log lines about the connections that are left


class Drain:
    """Drains one node once. `progress` returns at the node's next step, or after so many seconds.

    A drain ends when a count of connections says 0 or when its time is up. While the kernel does
    not tell the number, the number is unknown and the drain goes on.
    """

    def __init__(
        self, part: Participant, sweeper: Sweeper, progress: Callable[[float], Awaitable[None]]
    ) -> None:
        self._part = part
        self._sweeper = sweeper
        self._progress = progress
        self._logged: tuple[float, int | None] | None = None  # when, and the number

    async def run(self, timeout_s: float) -> None:
        """Give everything up, and wait at most that long for connections to end."""
        deadline_s = time.monotonic() + timeout_s
        self._part.leave()
        await self._hand_over()
        while (count := await self._sweeper.sweep()) is None or count.alive:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                self._log_end(count)
                return
            self._log_progress(count, left_s)
            await asyncio.sleep(min(SWEEP_S, left_s))

    async def _hand_over(self) -> None:
        """Wait until the others have taken over, or, without ZooKeeper, until the lease expired."""
        give_up_s = time.monotonic() + 2 * self._part.handover.terms.over_s
        while not self._part.node_state.is_drained and time.monotonic() < give_up_s:
            await self._progress(give_up_s - time.monotonic())

    def _log_progress(self, count: ConnectionCount | None, left_s: float) -> None:
        alive, now_s = None if count is None else count.alive, time.monotonic()
        if self._logged is not None:
            logged_s, logged = self._logged
            is_same_kind = (alive is None) == (logged is None)
            if alive == logged or (is_same_kind and now_s < logged_s + PROGRESS_S):
                return
        self._logged = now_s, alive
        if alive is None:
            log.warning(
                "draining: connections cannot be counted (%s), waiting at most another %.0f s",
                self._sweeper.reason,
                left_s,
            )
        else:
            log.info("draining: %d connections left, waiting at most another %.0f s", alive, left_s)

    def _log_end(self, count: ConnectionCount | None) -> None:
        if count is None:
            log.warning(
                "leaving with an unknown number of connections (%s): the drain timeout has passed",
                self._sweeper.reason,
            )
        else:
            log.warning(
                "leaving with %d connections: the drain timeout has passed, and they end now",
                count.alive,
            )
