"""Runs the operator's program for each change of this node's state, one after the other.

The daemon never waits for the program.
"""

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

TIMEOUT_S = 10.0  # for one run of the program; later events wait for so long
# If the program hangs each time, this is the events of ten minutes; older ones are not news.
MAX_WAITING = 64

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StateChange:
    """A change of this node's state for one VIP, from `former` to `state`.

    `time` is in seconds since the epoch.
    """

    vip: IPv4Address
    member_id: int
    state: str
    former: str
    reason: str
    time: float

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of the program."""
        return str(self.vip), self.state, self.former

    def encode(self) -> bytes:
        """The program's standard input: one line of JSON."""
        fields = {
            "vip": str(self.vip),
            "member_id": self.member_id,
            "state": self.state,
            "former": self.former,
            "reason": self.reason,
            "time": self.time,
        }
        return json.dumps(fields).encode() + b"\n"


def _ignore() -> None:
    """Do nothing: nobody counts failures."""


class Notifier:
    """Runs the program for each event, in order, at most one at a time.

    `path` is the program, or `None`. `failed` is called whenever the program cannot be run, is
    killed, or ends with an error.
    """

    def __init__(self, path: str | None, failed: Callable[[], None] = _ignore) -> None:
        self._path, self._failed = path, failed
        self._waiting: deque[StateChange] = deque()
        self._dropping = False
        self._arrived = asyncio.Event()
        self._running = asyncio.Lock()

    def use(self, path: str | None) -> None:
        """Run another program from the next event on, also for the events that wait.

        The program that runs may finish. Without a program the waiting events are dropped.
        """
        if path is None and self._waiting:
            logger.warning(
                "%d events dropped: --notify=%s was removed before they were delivered",
                len(self._waiting),
                self._path,
            )
            self._waiting.clear()
        self._path = path

    def notify(self, event: StateChange) -> None:
        """Have the program run for an event; never waits."""
        if self._path is None:
            return
        if len(self._waiting) == MAX_WAITING:
            self._waiting.popleft()
            if not self._dropping:
                logger.warning(
                    "more than %d events wait for %s: dropping the oldest",
                    MAX_WAITING,
                    self._path,
                )
            self._dropping = True
        self._waiting.append(event)
        self._arrived.set()

    async def run(self) -> None:
        """Run the program for events, for ever. Cancelling this leaves no process."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self._deliver()

    async def flush(self, timeout_s: float) -> None:
        """Return when all events are delivered, or time is up.

        It is for the exit, before or after `run` is cancelled.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._deliver()
        if self._waiting:
            logger.warning(
                "%d events not delivered: %s did not take them within %g s",
                len(self._waiting),
                self._path,
                timeout_s,
            )

    async def _deliver(self) -> None:
        async with self._running:
            while self._waiting and self._path is not None:
                if not await _run(self._path, self._waiting.popleft()):
                    self._failed()
            self._dropping = False


async def _run(path: str, event: StateChange) -> bool:
    """Run the program for one event; return whether that went well."""
    try:
        running = program.start(
            (path, *event.arguments),
            {"MAGLEV0_VIP": str(event.vip)},
            standard_input=event.encode(),
            listen=False,
        )
    except OSError as error:
        logger.warning(
            "cannot run %s for event %s: %s",
            path,
            event.state,
            (error.strerror or str(error)).lower(),
        )
        return False
    try:
        async with asyncio.timeout(TIMEOUT_S):
            status = await asyncio.shield(running.ended)
    except RuntimeError as error:  # threading raises it where it can start no thread
        logger.warning("cannot run %s for event %s: %s", path, event.state, error)
    except TimeoutError:
        logger.warning(
            "%s killed: it did not end within %g s for event %s", path, TIMEOUT_S, event.state
        )
    else:
        return _judge(path, event, status)
    finally:
        await running.finish()
    return False


def _judge(path: str, event: StateChange, status: int) -> bool:
    if status in program.CANNOT_RUN:
        logger.warning(
            "cannot run %s for event %s: is it there, and executable?", path, event.state
        )
    elif status:
        logger.warning("%s failed for event %s: %s", path, event.state, program.fate(status))
    return not status
