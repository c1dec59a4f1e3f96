"""Keeps the kernel as it was asked to be, whatever others do to it meanwhile.

To the hand-over it is the `Gate`: what stands in the way of a call is mended once, and then the node counts as unable to serve until it is mended.
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
from maglev0.runtime.waiting import Backoff, first_of

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

COALESCE_S = 0.02  # kernel events come in bursts; one look per burst
LOOK_S = 15.0  # between looks without an event: of some losses, as that of a MAC on the link, the kernel gives no notice
MAX_FIGHT_S = 1.0


class Reconciler:
    """One dataplane and its health. `open` until it succeeds, then the calls of `Gate` while `mend` runs beside.

    `able` says whether the node can serve; `changed` is called whenever that changes, and when something had to be restored.
    """

    def __init__(self, dataplane: Dataplane, changed: Callable[[], None]) -> None:
        self.able = True
        self.restored = 0  # things put back so far that others had taken away
        self._dataplane = dataplane
        self._changed = changed
        self._lock = asyncio.Lock()  # the loop and the mending both change the kernel
        self._broken = asyncio.Event()
        self._backoff = (
            Backoff()
        )  # until the gate was opened: what is mended may break again at the first try
        self._reason = ""

    async def open(self) -> None:
        """Bring the dataplane up, however long that takes: a link may come up later than the machine.

        Raises `UnavailableError` for what does not mend itself.
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
        """See `Readings.owned`."""
        return await self._carry_out(self._dataplane.owned)

    async def connections(self) -> Connections:
        """See `Readings.connections`. It only looks, and may take long."""
        return await self._dataplane.connections()

    async def counters(self) -> Counters | None:
        """See `Statistics.counters`. It only looks."""
        return await self._dataplane.counters()

    async def kept(self) -> frozenset[int]:
        """See `Readings.kept`."""
        return await self._carry_out(self._dataplane.kept)

    # The lease does not wait for a large load or a repair: each of these is one small transaction of its own.

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
                return await self._tried_twice(call)
            except DataplaneError as error:
                self._fail(error)
                self._broken.set()
                raise

    async def _tried_twice(self, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        try:
            return await call()
        except DataplaneError as error:
            log.debug("mending before a second try: %s", error)
            self._tell(await self._dataplane.repair())
            return await call()

    async def mend(self) -> None:
        """Restore what others take away, for ever; while that fails, the node is unable to serve and it is tried again."""
        fights = Backoff(MAX_FIGHT_S)
        while True:
            await first_of(
                self._dataplane.disturbed(),
                self._broken.wait(),
                timeout_s=LOOK_S if self.able else self._backoff.failed(),
            )
            if self._broken.is_set():
                self._broken.clear()
                await asyncio.sleep(self._backoff.failed())
            restored = await self._mended()
            # Somebody who takes the same thing away again and again gets a slower opponent each time.
            if restored:
                await asyncio.sleep(fights.failed())
            else:
                fights.succeeded()
                await asyncio.sleep(COALESCE_S)

    async def _mended(self) -> tuple[str, ...]:
        try:
            async with self._lock:
                restored = await self._dataplane.repair()
        except DataplaneError as error:
            self._fail(error)
            return ()
        self._recover()
        self._tell(restored)
        return restored

    def _tell(self, restored: tuple[str, ...]) -> None:
        self.restored += len(restored)
        for thing in restored:
            log.warning("restored %s", thing)
        if restored:
            self._changed()

    async def close(self) -> None:
        """Own nothing and remove what was added."""
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
        """Have everything compared with the kernel and mended: what was read back of it is not what it should hold."""
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
