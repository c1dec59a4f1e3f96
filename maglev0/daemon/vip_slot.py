"""One VIP in the supervisor: its state, the attempts to serve it, and how it leaves.

starting -> serving    the member has its first place in the table
starting, serving -> failed    an attempt raised; the next one follows after a pause
failed -> serving      a later attempt succeeded
failed -> starting     a reload asks for a VIP again whose flags were wrong
any -> leaving         a reload dropped the VIP
leaving -> starting    a reload added it again, and what was before has left
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import NamedTuple

from maglev0.daemon.vip_controller import VipController
from maglev0.errors import ConfigError, MaglevError
from maglev0.runtime.waiting import Backoff, first_of

MAX_RETRY_S = 30.0  # between two attempts; after so long a service the pauses are short again


class SlotState(enum.Enum):
    """What one VIP does in the supervisor."""

    STARTING = "starting"
    SERVING = "serving"
    FAILED = "failed"
    LEAVING = "leaving"


_TRANSITIONS = {
    SlotState.STARTING: {SlotState.SERVING, SlotState.FAILED, SlotState.LEAVING},
    SlotState.SERVING: {SlotState.FAILED, SlotState.LEAVING},
    SlotState.FAILED: {
        SlotState.SERVING,
        SlotState.FAILED,
        SlotState.STARTING,
        SlotState.LEAVING,
    },
    SlotState.LEAVING: {SlotState.STARTING},
}


class SlotContext(NamedTuple):
    """What the supervisor gives its slots.

    `make` makes the controller of an attempt. `connect` begins to connect to ZooKeeper. `failed`
    is called when an attempt has failed; it raises where the daemon must end.
    """

    make: Callable[[IPv4Address], VipController]
    connect: Callable[[], None]
    failed: Callable[[IPv4Address, MaglevError], None]


class VipSlot:
    """One VIP. `run` serves it until it has left; `add`, `drop` and `settled` are its events."""

    def __init__(self, vip: IPv4Address, context: SlotContext) -> None:
        self.vip = vip
        self.state = SlotState.STARTING
        self.error: MaglevError | None = None  # why the last attempt failed
        self.controller = context.make(vip)
        self.is_wanted = True  # the configuration names the VIP, and the daemon does not stop
        self._context = context
        self._backoff = Backoff(MAX_RETRY_S)
        self._served_since_s = 0.0
        self._dropped, self._retry = asyncio.Event(), asyncio.Event()

    def _become(self, state: SlotState, error: MaglevError | None = None) -> None:
        """The one place where the state changes."""
        if state not in _TRANSITIONS[self.state]:
            raise AssertionError(f"{self.vip}: {self.state} to {state}")
        self.state, self.error = state, error

    def settled(self) -> None:
        """The member has its first place in the table."""
        if self.state in (SlotState.STARTING, SlotState.FAILED):
            self._become(SlotState.SERVING)
            self._served_since_s = time.monotonic()

    def add(self) -> None:
        """The configuration names the VIP.

        Serve it again if it was dropped or its flags were wrong.
        """
        self.is_wanted = True
        if isinstance(self.error, ConfigError):
            self._become(SlotState.STARTING)
            self._retry.set()

    def drop(self) -> None:
        """The configuration does not name the VIP any more: leave as at the daemon's end."""
        self.is_wanted = False
        if self.state is not SlotState.LEAVING:
            self._become(SlotState.LEAVING)
            self._dropped.set()

    async def run(self) -> None:
        """Serve the VIP until it was dropped and has left. Raises what `failed` raises."""
        while True:
            await self._serve_until_dropped()
            await self.controller.withdraw_and_leave()
            if not self.is_wanted:
                return
            self._dropped.clear()
            self._backoff.succeeded()
            self._become(SlotState.STARTING)
            self.controller = self._context.make(self.vip)

    async def _serve_until_dropped(self) -> None:
        attempts = asyncio.create_task(self._attempts())
        try:
            await first_of(attempts, self._dropped.wait())
            if not self._dropped.is_set():
                attempts.result()
                return
            await first_of(attempts, self.controller.drain())
        finally:
            attempts.cancel()
            await asyncio.gather(attempts, return_exceptions=True)

    async def _attempts(self) -> None:
        """Serve the VIP; after a failure try again, until it is not wanted any more."""
        while self.is_wanted:
            try:
                await self.controller.serve(self._context.connect)
            except MaglevError as error:
                if self.state is SlotState.LEAVING:
                    return
                await self._fail(error)
            self.controller = self._context.make(self.vip)

    async def _fail(self, error: MaglevError) -> None:
        """Leave, and return when the next attempt is due.

        Where the flags are wrong, that is the next reload.
        """
        if self.state is SlotState.SERVING and _served_long(self._served_since_s):
            self._backoff.succeeded()
        self._become(SlotState.FAILED, error)
        self._context.failed(self.vip, error)
        self._retry.clear()
        await self.controller.withdraw_and_leave()
        if isinstance(error, ConfigError):
            await self._retry.wait()
        else:
            await asyncio.sleep(self._backoff.failed())

    async def drain(self) -> None:
        """Hand everything over, as the daemon stops: no attempt follows."""
        self.is_wanted = False
        await self.controller.drain()


def _served_long(since_s: float) -> bool:
    return time.monotonic() - since_s >= MAX_RETRY_S
