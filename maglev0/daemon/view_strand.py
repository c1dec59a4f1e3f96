"""The strand that follows the view: one round of the protocol after another."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from maglev0.coordination.session import Session, SessionState
from maglev0.daemon.idle_work import IdleWork
from maglev0.daemon.ownership_log import OwnershipLog
from maglev0.daemon.reconciler import Reconciler
from maglev0.errors import DataplaneError
from maglev0.protocol.agreement import Unsettled
from maglev0.protocol.participant import Participant
from maglev0.protocol.ports.zookeeper import Disconnected, Refused
from maglev0.runtime.waiting import Backoff, woken

log = logging.getLogger(__name__)

MAX_RETRY_S = 1.0
QUIET_S = 0.03  # without a change, before idle work begins: reading back costs like a hand-over


class ViewStrand:
    """Runs rounds whenever `awake` is set or a round asks for the next; calls `on_round` after."""

    def __init__(
        self,
        session: Session,
        reconciler: Reconciler,
        part: Participant,
        *,
        idle: IdleWork,
        ownership_log: OwnershipLog,
        awake: asyncio.Event,
        on_round: Callable[[], None],
    ) -> None:
        self._session = session
        self._reconciler = reconciler
        self._part = part
        self._idle = idle
        self._log = ownership_log
        self._awake = awake
        self._on_round = on_round
        self._rounded = asyncio.Event()
        self._backoff = Backoff(MAX_RETRY_S)

    async def run(self) -> None:
        """Follow the view for ever. Raises MaglevError for what only the operator can fix."""
        while True:
            self._awake.clear()
            pause_s = await self._round()
            self._rounded.set()
            self._on_round()
            if pause_s == 0:
                await asyncio.sleep(0)
                continue
            until_s = math.inf if pause_s is None else time.monotonic() + pause_s
            await self._idle.wait(until_s, QUIET_S)
            if not self._awake.is_set():
                await self._idle.use(until_s)

    async def next_round(self, timeout_s: float | None = None) -> None:
        """Return after the next round, or after that time."""
        self._rounded.clear()
        await woken(self._rounded, timeout_s)

    async def _round(self) -> float | None:
        """Return in how many seconds the next round is due, `None` when something wakes it."""
        if self._session.state is not SessionState.CONNECTED:
            return None
        try:
            pause_s = await self._next_step()
        except (Disconnected, Unsettled, Refused) as error:
            log.debug("this round ends: %r", error)
            return self._backoff.failed()
        except DataplaneError as error:
            log.debug("this round ends: %s", error)
            self._part.node_state.held_unsure()
            return self._backoff.failed()
        self._backoff.succeeded()
        return pause_s

    async def _next_step(self) -> float | None:
        node_state = self._part.node_state
        if not self._reconciler.able:
            if node_state.is_member:
                log.warning("%s leaves the cluster: this node cannot serve", node_state.me.name)
                node_state.held_unsure()
                await self._part.joining.withdraw()
                self._part.notice(None)
            self._log.reset()
            return None
        if not node_state.is_member:
            self._part.granted(self._session.timeout_s)
        return await self._part.round()
