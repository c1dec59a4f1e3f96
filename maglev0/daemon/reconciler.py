"""Keeps the kernel as the node wants it, whatever other programs do to it.

To the hand-over it is the `Gate`. A call that fails is tried once more after a repair. If that
fails, too, the node cannot serve until a repair succeeds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from maglev0.core.transition import Move
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.protocol.ports.dataplane import Dataplane
from maglev0.protocol.ports.gate import Commit
from maglev0.protocol.ports.readings import Connections, Counters
from maglev0.runtime.waiting import MAX_DELAY_S, Backoff, first_of

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

COALESCE_S = 0.02  # kernel events come in bursts; one look per burst
# Between two looks without an event: of some losses, such as that of a MAC on the link, the kernel
# sends no event.
LOOK_S = 15.0
MAX_FIGHT_S = 1.0


class Reconciler:
    """One dataplane and its health. `open` it first, then call the gate while `reconcile` runs.

    `able` is whether the node can serve; `changed` is called whenever that changes, and after a
    repair that restored something. `restored` counts what repairs have restored so far.
    """

    def __init__(self, dataplane: Dataplane, changed: Callable[[], None]) -> None:
        self.able = True
        self.restored = 0
        self._dataplane = dataplane
        self._changed = changed
        self._lock = asyncio.Lock()  # the strands and the repairs both change the kernel
        self._broken = asyncio.Event()
        # Counts failures until the gate was opened: what is repaired may break again at once.
        self._backoff = Backoff()
        self._events_backoff = Backoff()
        self._events_error = ""  # why kernel events cannot be awaited, as logged
        self._reason = ""

    async def open(self) -> None:
        """Bring the dataplane up, however long that takes: a link may come up late.

        Raises `UnavailableError` for what no further attempt can fix.
        """
        backoff = Backoff()
        while True:
            try:
                await self._dataplane.open()
            except UnavailableError:
                raise
            except DataplaneError as error:
                self._fail(error)
                await asyncio.sleep(backoff.failed())
            else:
                self._recover()
                return

    async def stage(self, move: Move) -> None:
        """See `Gate.stage`."""
        await self._carry_out(lambda: self._dataplane.stage(move))

    async def commit(self, to: Commit) -> None:
        """See `Gate.commit`."""
        await self._carry_out(lambda: self._dataplane.commit(to))
        if self.able:
            self._backoff.succeeded()

    async def unpin(self, buckets: frozenset[int]) -> None:
        """See `Gate.unpin`."""
        await self._carry_out(lambda: self._dataplane.unpin(buckets))

    async def owned(self) -> frozenset[int]:
        """See `Readings.owned`. The hand-over relies on it, so a failure is a host fault."""
        return await self._carry_out(self._dataplane.owned)

    async def kept(self) -> frozenset[int]:
        """See `Readings.kept`."""
        return await self._carry_out(self._dataplane.kept)

    # What follows is read for people. A failure repairs nothing and is no host fault.

    async def read_back(self) -> frozenset[int]:
        """Return the buckets in force, for logs and reports. Raises DataplaneError."""
        async with self._lock:
            return await self._dataplane.owned()

    async def counters(self) -> Counters | None:
        """See `Statistics.counters`. Raises DataplaneError."""
        async with self._lock:
            return await self._dataplane.counters()

    async def connections(self) -> Connections:
        """See `Readings.connections`. Raises DataplaneError.

        It may take long and reads another table of the kernel, so it does not hold others up.
        """
        return await self._dataplane.connections()

    # The lease does not wait for a large move or a repair: each of these is one small transaction.

    async def arm(self) -> None:
        """See `LeaseTimer.arm`."""
        await self._dataplane.arm()

    async def promote(self) -> None:
        """See `LeaseTimer.promote`."""
        await self._dataplane.promote()

    async def drop(self) -> None:
        """See `LeaseTimer.drop`."""
        await self._dataplane.drop()

    async def _carry_out(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        async with self._lock:
            try:
                return await self._try_twice(call)
            except DataplaneError as error:
                self._fail(error)
                self._broken.set()
                raise

    async def _try_twice(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        try:
            return await call()
        except DataplaneError as error:
            log.debug("repairing before a second attempt: %s", error)
            self._log_restored(await self._dataplane.repair())
            return await call()

    async def reconcile(self) -> None:
        """Restore what others take away, for ever; a repair that fails is tried again."""
        fights = Backoff(MAX_FIGHT_S)
        while True:
            await self._wait(LOOK_S if self.able else self._backoff.failed())
            if self._broken.is_set():
                self._broken.clear()
                await asyncio.sleep(self._backoff.failed())
            restored = await self._repair()
            # A program that removes the same thing again and again meets slower repairs each time.
            if restored:
                await asyncio.sleep(fights.failed())
            else:
                fights.succeeded()
                await asyncio.sleep(COALESCE_S)

    async def _wait(self, timeout_s: float) -> None:
        """Return when the kernel may have changed, when a call failed, or when time is up."""
        events = asyncio.ensure_future(self._next_event())
        try:
            await first_of(events, self._broken.wait(), timeout_s=timeout_s)
            if events.done():
                events.result()
        finally:
            events.cancel()
            await asyncio.gather(events, return_exceptions=True)

    async def _next_event(self) -> None:
        """Return at the next kernel event; if there can be none, after a delay that grows."""
        try:
            await self._dataplane.disturbed()
        except DataplaneError as error:
            if str(error) != self._events_error:
                log.warning(
                    "cannot wait for kernel events: %s; looking at the kernel every %.0f s",
                    error,
                    MAX_DELAY_S,
                )
            self._events_error = str(error)
            await asyncio.sleep(self._events_backoff.failed())
        else:
            if self._events_error:
                log.info("kernel events arrive again")
            self._events_error = ""
            self._events_backoff.succeeded()

    async def _repair(self) -> tuple[str, ...]:
        try:
            async with self._lock:
                restored = await self._dataplane.repair()
        except DataplaneError as error:
            self._fail(error)
            return ()
        self._recover()
        self._log_restored(restored)
        return restored

    def _log_restored(self, restored: tuple[str, ...]) -> None:
        self.restored += len(restored)
        for thing in restored:
            log.warning("restored %s", thing)
        if restored:
            self._changed()

    async def close(self) -> None:
        """Take all buckets out of force and remove what was added; log what cannot be removed."""
        async with self._lock:
            try:
                await self._dataplane.close()
            except DataplaneError as error:
                log.error("could not remove all that was added: %s", error)  # noqa: TRY400  a fact, not a traceback

    @property
    def reason(self) -> str:
        """Why this node cannot serve; empty where it can."""
        return "" if self.able else self._reason

    @property
    def early_drop(self) -> str:
        """See `Statistics.early_drop`."""
        return self._dataplane.early_drop

    def distrust(self) -> None:
        """Have the next repair, which follows at once, compare everything with the kernel."""
        self._dataplane.distrust()
        self._broken.set()

    def _fail(self, error: DataplaneError) -> None:
        if str(error) != self._reason:
            log.error("cannot serve: %s", error)
        self._reason = str(error)
        self.able = False
        self._changed()

    def _recover(self) -> None:
        if not self.able:
            log.info("can serve again")
            self._reason = ""
            self.able = True
            self._changed()
