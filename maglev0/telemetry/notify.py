"""Tells a program of the operator's of each change of this node's state, one after the other, without ever waiting for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address

from maglev0.runtime import program

TIMEOUT_S = 10.0  # for the program; the events behind it wait so long
MAX_WAITING = (
    64  # with a program that hangs each time this is ten minutes' worth; what is older is no news
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StateChange:
    """A change of this node's state under one VIP, from `former` to `state`, at `time`: seconds since the epoch."""

    vip: IPv4Address
    member_id: int
    state: str
    former: str
    reason: str
    time: float

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the program is called with."""
        return str(self.vip), self.state, self.former

    def encode(self) -> bytes:
        """What the program reads, one line of JSON."""
        fields = {
            "vip": str(self.vip),
            "member_id": self.member_id,
            "state": self.state,
            "former": self.former,
            "reason": self.reason,
            "time": self.time,
        }
        return json.dumps(fields).encode() + b"\n"


def _nobody() -> None:
    """Nobody asks."""


class Notifier:
    """Runs the program (`None`: there is none) for each event, in order, at most one at a time."""

    def __init__(self, path: str | None, failed: Callable[[], None] = _nobody) -> None:
        """`failed` is called whenever the program could not be told, or did not do well."""
        self._path, self._failed = path, failed
        self._waiting: deque[StateChange] = deque()
        self._dropping = False
        self._told = asyncio.Event()
        self._running = asyncio.Lock()

    def tell(self, event: StateChange) -> None:
        """Have the program told, some time; never waits."""
        if self._path is None:
            return
        if len(self._waiting) == MAX_WAITING:
            self._waiting.popleft()
            if not self._dropping:
                logger.warning(
                    "more than %d events wait for %s: the oldest are dropped",
                    MAX_WAITING,
                    self._path,
                )
            self._dropping = True
        self._waiting.append(event)
        self._told.set()

    async def run(self) -> None:
        """Run the program for what it has to be told, for ever. When this is cancelled, no process is left."""
        while True:
            await self._told.wait()
            self._told.clear()
            await self._drain()

    async def flush(self, timeout_s: float) -> None:
        """Return when all is told, or time is up: for the exit, before or after `run` is cancelled."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._drain()
        if self._waiting:
            logger.warning(
                "%d events are left that %s was not told of within %g s",
                len(self._waiting),
                self._path,
                timeout_s,
            )

    async def _drain(self) -> None:
        async with self._running:
            while self._waiting and self._path is not None:
                if not await _tell(self._path, self._waiting.popleft()):
                    self._failed()
            self._dropping = False


async def _tell(path: str, event: StateChange) -> bool:
    """Have the program told; whether that went well."""
    try:
        running = program.start(
            (path, *event.arguments),
            {"MAGLEV0_VIP": str(event.vip)},
            standard_input=event.encode(),
            listen=False,
        )
    except OSError as error:
        logger.warning(
            "running %s for %s: %s", path, event.state, (error.strerror or str(error)).lower()
        )
        return False
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status = await asyncio.shield(running.ended)
    except RuntimeError as error:  # what threading says when it can start no thread
        logger.warning("running %s for %s: %s", path, event.state, error)
    except TimeoutError:
        logger.warning(
            "%s was killed: it had not ended %g s after it was told of %s",
            path,
            TIMEOUT_S,
            event.state,
        )
    else:
        return _judge(path, event, status)
    finally:
        await running.finish()
    return False


def _judge(path: str, event: StateChange, status: int) -> bool:
    if status in program.CANNOT_RUN:
        logger.warning(
            "%s cannot be run to be told of %s: is it there, and executable?", path, event.state
        )
    elif status:
        logger.warning("%s, told of %s: %s", path, event.state, program.fate(status))
    return not status
