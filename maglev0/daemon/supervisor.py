"""The supervisor: the process with its signals, its ZooKeeper session and a slot for each VIP.

Watches, session events, kernel events and signals only wake the loop, and all work is done there.
All VIPs share the session.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address

from maglev0.config import configuration
from maglev0.config.configuration import Config
from maglev0.coordination import diagnosis
from maglev0.coordination.session import Session, SessionState
from maglev0.coordination.session_file import SavedSession, SessionFile, kernel_identity
from maglev0.core.view import name_of
from maglev0.daemon.vip_controller import VipContext, VipController
from maglev0.daemon.vip_slot import SlotContext, SlotState, VipSlot
from maglev0.errors import MaglevError
from maglev0.runtime import logs
from maglev0.runtime.systemd import service_manager
from maglev0.runtime.waiting import first_of, together
from maglev0.runtime.watchdog import Watchdog
from maglev0.telemetry.sink import DaemonSink

log = logging.getLogger(__name__)

# Each answer of ZooKeeper passes several times between kazoo's threads and the loop. With Python's
# default of 5 ms each of these passes could wait for that long.
SWITCH_INTERVAL_S = 0.0005
# What a stop takes besides the drain time-out: hand-over, leaving ZooKeeper and removing what was
# added take under 3 s.
STOP_MARGIN_S = 10.0
STATUS_S = 1.0


def run(config: Config, reread: Callable[[], Config]) -> int:
    """Run one daemon until a signal stops it; returns the exit status.

    `reread` reads the command line and its file again, for SIGHUP. Raises MaglevError for what the
    operator must fix.
    """
    logs.begin(verbose=config.verbose)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return asyncio.run(_run(config, reread))


class Signals:
    """What signals ask for: stop, stop without waiting, exit for a restart, reload."""

    def __init__(self) -> None:
        self.stop, self.hurry, self.restart, self.reload = (
            asyncio.Event(),
            asyncio.Event(),
            asyncio.Event(),
            asyncio.Event(),
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGUSR1, self.restart.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def _stop(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()


async def _run(config: Config, reread: Callable[[], Config]) -> int:
    signals = Signals()
    daemon = Supervisor(config)
    serving = asyncio.create_task(
        together(daemon.serve(), daemon.reload_whenever(signals.reload, reread))
    )
    await first_of(serving, signals.stop.wait(), signals.restart.wait())
    if signals.stop.is_set():
        await first_of(serving, daemon.drain(), signals.hurry.wait())
    serving.cancel()
    await asyncio.wait([serving])
    if signals.restart.is_set() and not signals.stop.is_set():
        await daemon.exit_for_restart()
    else:
        await daemon.leave()
    if not serving.cancelled():
        serving.result()
    return 0


class Supervisor:
    """All VIPs of one node. `serve` runs until it is cancelled or raises.

    In every case `leave` follows, or `exit_for_restart`.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._name = name_of(config.my_id)
        self._kernel = kernel_identity()
        found = [self._file(vip)[1] for vip in config.vips]
        former = next((saved for saved in found if saved is not None), None)
        self._session = Session(
            config.zk,
            config.session_timeout_s,
            self._notice,
            None if former is None else former.session,
            config.access,
        )
        self._sink = DaemonSink(config)
        self._session.on_answer = self._sink.answered
        self._vip_context = VipContext(self._session, self._kernel, self._sink, self._note_settled)
        self._slot_context = SlotContext(self._make, self._connect, self._note_failed)
        self._slots = {vip: VipSlot(vip, self._slot_context) for vip in config.vips}
        self._tasks: dict[IPv4Address, asyncio.Task[None]] = {}  # one for each slot, from `serve`
        self._slots_changed = asyncio.Event()
        self._has_begun = self._is_ready = False

    def _file(self, vip: IPv4Address) -> tuple[SessionFile | None, SavedSession | None]:
        if self._config.dry_run:
            return None, None
        file = SessionFile(vip, self._config.zk, self._kernel)
        return file, file.read(self._config.session_timeout_s)

    def _make(self, vip: IPv4Address) -> VipController:
        return VipController(self._config, vip, self._vip_context, *self._file(vip))

    async def serve(self) -> None:
        """Serve all VIPs for ever; once none can be served, raise the last error."""
        self._sink.start()
        for slot in self._slots.values():
            self._start(slot)
        try:
            await together(
                diagnosis.narrate(self._session, self._config.zk),
                self._watch(),
                self._sink.run(),
                self._beat(),
                self._report_status(),
            )
        finally:
            await self._end_slots()

    def _start(self, slot: VipSlot) -> None:
        self._slots[slot.vip] = slot
        self._tasks[slot.vip] = asyncio.create_task(slot.run())
        self._slots_changed.set()

    async def _end_slots(self) -> None:
        """Cancel what runs for the slots; they stay in the list until the daemon has left."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _watch(self) -> None:
        """Remove the slots of VIPs that have left; raises where nothing can be served any more."""
        while True:
            self._slots_changed.clear()
            await first_of(*self._tasks.values(), self._slots_changed.wait())
            for vip, task in list(self._tasks.items()):
                if task.done():
                    task.result()
                    del self._tasks[vip], self._slots[vip]

    @property
    def _wanted_slots(self) -> list[VipSlot]:
        """The slots of the VIPs that the configuration names."""
        return [
            slot
            for slot in self._slots.values()
            if slot.is_wanted or slot.state is not SlotState.LEAVING
        ]

    def _note_failed(self, vip: IPv4Address, error: MaglevError) -> None:
        """Report that a VIP cannot be served; raises the error where no other one is."""
        if all(slot.state is SlotState.FAILED for slot in self._wanted_slots):
            raise error
        self._report_ready()
        log.error("%s is not served: %s", vip, error)
        self._sink.raised(error)

    def _connect(self) -> None:
        """Begin to connect to ZooKeeper: this host is fit for at least one VIP."""
        if not self._has_begun:
            self._has_begun = True
            self._session.start()

    def _note_settled(self, vip: IPv4Address) -> None:
        """A VIP has its first place in the table."""
        self._slots[vip].settled()
        self._report_ready()

    def _report_ready(self) -> None:
        """Report readiness once: every VIP that does not fail has its place in the table."""
        hopeful = [slot for slot in self._wanted_slots if slot.state is not SlotState.FAILED]
        if (
            not self._is_ready
            and hopeful
            and all(slot.state is SlotState.SERVING for slot in hopeful)
        ):
            self._is_ready = True
            service_manager.ready()

    def _notice(self, path: str | None) -> None:
        for slot in self._slots.values():
            slot.controller.notice(path)

    async def _beat(self) -> None:
        """Feed the watchdog of this process, and systemd's unless a VIP is stuck.

        Both begin when the session is connected: before, there is nothing to lose.
        """
        await self._session.until(SessionState.CONNECTED)
        watchdog = Watchdog(self._session.timeout_s)
        watchdog.start()
        asked_s = service_manager.watchdog_period_s()
        fed_s = -math.inf
        while True:
            watchdog.beat()
            is_stuck = any(slot.controller.is_stuck for slot in self._slots.values())
            if asked_s is not None and not is_stuck and time.monotonic() >= fed_s + asked_s:
                service_manager.alive()
                fed_s = time.monotonic()
            await asyncio.sleep(min(watchdog.period_s / 2, asked_s or math.inf))

    async def _report_status(self) -> None:
        reported = ""
        while True:
            words = self._words()
            if words != reported:
                service_manager.status(words)
                reported = words
            await asyncio.sleep(STATUS_S)

    def _words(self) -> str:
        parts = {
            slot.vip: slot.controller.words if slot.error is None else f"not served: {slot.error}"
            for slot in self._slots.values()
        }
        if len(parts) == 1:
            return next(iter(parts.values()))
        return "; ".join(f"{vip} {words}" for vip, words in parts.items())

    async def reload_whenever(self, asked: asyncio.Event, reread: Callable[[], Config]) -> None:
        """Reload whenever `asked` is set; a wrong configuration leaves everything as it is."""
        while True:
            await asked.wait()
            asked.clear()
            if self._is_ready:
                service_manager.reloading()
            try:
                self._reload(reread())
            except MaglevError as error:
                log.error("configuration not reloaded, the former one stays in force: %s", error)  # noqa: TRY400  a fact, not a traceback
                self._sink.raised(error)
            if self._is_ready:
                service_manager.ready()
            self._report_ready()  # a VIP that it waited for may be dropped

    def _reload(self, wanted: Config) -> None:
        taken, needs_restart = configuration.changes(self._config, wanted)
        if needs_restart:
            log.warning(
                "configuration changed, in force after a restart: %s", ", ".join(needs_restart)
            )
        config = configuration.taken_over(self._config, wanted)
        self._sink.reload(config)  # first, since it may find that an address is taken
        self._config = config
        logs.set_verbose(verbose=config.verbose)
        for vip, slot in self._slots.items():
            if vip in config.vips:
                slot.controller.reload(config)
            else:
                slot.drop()
        for vip in sorted(config.vips):
            if self._has_left(vip):
                self._start(VipSlot(vip, self._slot_context))
            else:
                self._slots[vip].add()
        log.info("configuration reloaded: %s", ", ".join(taken) if taken else "no changes")

    def _has_left(self, vip: IPv4Address) -> bool:
        """Whether no slot has the VIP, or one that `_watch` will remove without an error."""
        task = self._tasks.get(vip)
        return task is None or (task.done() and not task.cancelled() and task.exception() is None)

    async def drain(self) -> None:
        """Hand everything over and wait for connections to end, at most for --drain-timeout."""
        service_manager.stopping(self._config.drain_timeout_s + STOP_MARGIN_S)
        await asyncio.gather(*(slot.drain() for slot in self._slots.values()))

    async def leave(self) -> None:
        """Leave ZooKeeper, then remove what was added here, also where a part of that fails.

        Call it when `serve` has ended: no task runs for a slot then.
        """
        controllers = [slot.controller for slot in self._slots.values()]
        await asyncio.gather(*(controller.withdraw() for controller in controllers))
        await self._session.close()
        for controller in controllers:
            await controller.leave()
        await self._sink.close()

    async def exit_for_restart(self) -> None:
        """End the process and leave kernel and session as they are, for the daemon that follows.

        The leases are renewed before, so that it has as much time as a lease is long.
        """
        controllers = [slot.controller for slot in self._slots.values()]
        await asyncio.gather(*(controller.renew_once() for controller in controllers))
        left_s = [left for each in controllers if (left := each.lease_left_s) is not None]
        log.info(
            "%s: exiting for a restart: buckets stay in force for %.1f s",
            self._name,
            max(0.0, min(left_s, default=0.0)),
        )
        sys.stdout.flush()
        # The interpreter takes a tenth of a second to tidy up, and the next daemon needs that time.
        os._exit(0)
