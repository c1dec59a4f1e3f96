"""The strand that renews the lease, and what the log says when the lease expires."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable

from maglev0.errors import DataplaneError, MaglevError
from maglev0.protocol.agreement import Unsettled
from maglev0.protocol.participant import Participant
from maglev0.runtime import clocks
from maglev0.runtime.waiting import together, woken

log = logging.getLogger(__name__)

RENEW_TIMEOUT_S = 0.2
# A renewal waits for its turn, for the kernel and for ZooKeeper; the session timeout bounds only
# the last of these.
STUCK_LEASES = 2


class RenewalStrand:
    """Renews the lease for ever, as `Participant.renewal` says when.

    `next_round` returns after the next round of the view strand. `on_change` is called when the
    lease expires and when it runs again.
    """

    def __init__(
        self,
        part: Participant,
        next_round: Callable[[], Awaitable[None]],
        on_change: Callable[[], None],
    ) -> None:
        self._part = part
        self._next_round = next_round
        self._on_change = on_change
        self._due = asyncio.Event()
        self._turned_at = time.monotonic()  # when the loop came round last
        part.renewal.wake = self._due.set

    async def run(self) -> None:
        """Renew for ever, and end the lease after each jump of the clocks."""
        await together(self._renew(), self._watch_lease(), clocks.watch(self._end_lease))

    def is_stuck(self, session_timeout_s: float) -> bool:
        """Whether the renewals do not come round any more, though the event loop turns."""
        longest_s = STUCK_LEASES * self._part.handover.terms.length_s + session_timeout_s
        return time.monotonic() - self._turned_at > longest_s

    async def renew_once(self) -> None:
        """Renew a last time, if ZooKeeper answers at once."""
        with contextlib.suppress(MaglevError, Unsettled, TimeoutError):
            async with asyncio.timeout(RENEW_TIMEOUT_S):
                await self._part.renewal.renew()

    async def _renew(self) -> None:
        while True:
            self._due.clear()
            self._turned_at = time.monotonic()
            try:
                pause_s = await self._part.renewal.renew()
            except DataplaneError as error:
                log.debug("no renewal: %s", error)
                pause_s = self._part.handover.terms.interval_s
            await woken(self._due, pause_s)

    async def _watch_lease(self) -> None:
        """Log when the kernel stops accepting new connections, and when it accepts them again."""
        handover = self._part.handover
        while True:
            left_s = handover.lease_until - time.monotonic()
            await asyncio.sleep(max(left_s, handover.terms.interval_s))
            over_s = time.monotonic() - handover.lease_until
            if over_s <= 0 or not handover.held:
                continue
            log.warning(
                "%s: refusing new connections in %d buckets; established connections continue",
                _expired(handover.terms.length_s + over_s),
                len(handover.held),
            )
            self._on_change()
            while handover.lease_until <= time.monotonic():
                await self._next_round()  # a lease that begins makes a round
            self._on_change()
            log.info("new connections are accepted again")

    async def _end_lease(self, jump_s: float) -> None:
        log.warning(
            "this machine's clocks jumped by %.1f s: ending the lease and renewing it", jump_s
        )
        try:
            await self._part.renewal.distrust()
        except DataplaneError as error:
            log.debug("the lease cannot be ended: %s", error)


def _expired(since_s: float) -> str:
    """Say why no lease runs; this node itself has ended one whose last renewal is not known."""
    if since_s == math.inf:
        return "no lease runs"
    return f"lease expired {since_s:.1f} s after the last ZooKeeper renewal"
