"""Keeps the kernel as the cluster's view wants it, whatever others do to it meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from maglev0.dataplane import Change, Dataplane
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.waiting import Backoff, first_of

log = logging.getLogger(__name__)

COALESCE_S = 0.02  # kernel events come in bursts; one look per burst
LOOK_S = 15.0  # between looks without an event: of some losses, as that of a MAC on the link, the kernel gives no notice
MAX_FIGHT_S = 1.0


class Upkeep:
    """One dataplane and its health. `open` until it succeeds, then `own` as the view changes while `mend` runs beside.

    `able` says whether the node can serve; `wake` is called whenever that changes. `wanted` is what it was last asked to own.
    """

    def __init__(self, dataplane: Dataplane, wake: Callable[[], None]) -> None:
        self.able = True
        self.wanted: frozenset[int] = frozenset()
        self._dataplane = dataplane
        self._wake = wake
        self._lock = asyncio.Lock()  # the loop and the mending both change the kernel
        self._broken = asyncio.Event()
        self._backoff = Backoff()  # until buckets were owned: what is mended may break again at the first of them
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

    async def own(self, buckets: frozenset[int]) -> Change:
        """Own exactly these buckets; what stands in the way is mended once. Raises DataplaneError, and is unable from then on."""
        async with self._lock:
            self.wanted = buckets
            try:
                change = await self._apply()
            except DataplaneError as error:
                self._fail(error)
                self._broken.set()
                raise
            if buckets and self.able:
                self._backoff.succeeded()
            return change

    async def _apply(self) -> Change:
        try:
            return await self._dataplane.apply(self.wanted)
        except DataplaneError as error:
            log.debug("mending before a second try: %s", error)
            await self._dataplane.repair()
            return await self._dataplane.apply(self.wanted)

    async def owned(self) -> frozenset[int]:
        """Read back what the kernel holds."""
        async with self._lock:
            return await self._dataplane.owned()

    async def mend(self) -> None:
        """Restore what others take away, for ever; while that fails, the node is unable to serve and it is tried again."""
        fights = Backoff(MAX_FIGHT_S)
        while True:
            await first_of(self._dataplane.disturbed(), self._broken.wait(), timeout_s=LOOK_S if self.able else self._backoff.failed())
            if self._broken.is_set():
                self._broken.clear()
                await asyncio.sleep(self._backoff.failed())
            restored = await self._mended()
            for thing in restored:
                log.warning("restored %s", thing)
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
                if not self.able:
                    await self._dataplane.apply(self.wanted)
        except DataplaneError as error:
            self._fail(error)
            return ()
        self._recover()
        return restored

    async def close(self) -> None:
        """Own nothing and remove what was added."""
        async with self._lock:
            try:
                await self._dataplane.close()
            except DataplaneError as error:
                log.error("could not remove all that was added: %s", error)  # noqa: TRY400  a fact, not a traceback

    def _fail(self, error: DataplaneError) -> None:
        if str(error) != self._reason:
            log.error("cannot serve: %s", error)
        self._reason = str(error)
        self.able = False
        self._wake()

    def _recover(self) -> None:
        if not self.able:
            log.info("can serve again")
            self._reason = ""
            self.able = True
            self._wake()
