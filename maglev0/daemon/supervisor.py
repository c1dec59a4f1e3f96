"""The daemon: one loop, one way: ZooKeeper session -> view -> table -> what this node owns -> dataplane -> kernel.

Watches, session events, kernel events and signals only wake the loop. Each VIP is a `VipController` of its own; they share the session.
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
from maglev0.errors import ConfigError, MaglevError
from maglev0.runtime import logs
from maglev0.runtime.systemd import service_manager
from maglev0.runtime.waiting import Backoff, first_of, together
from maglev0.runtime.watchdog import Watchdog
from maglev0.telemetry.sink import DaemonSink

log = logging.getLogger(__name__)

# Kazoo's threads and the loop hand over to each other several times for each answer of ZooKeeper; at Python's 5 ms a hand-over would wait for that.
SWITCH_INTERVAL_S = 0.0005
STOP_MARGIN_S = 10.0  # of the drain time-out: hand-over, leaving ZooKeeper and removing what was added take under 3 s
MAX_RETRY_S = 30.0  # between two attempts at a VIP that cannot be served, while others are
STATUS_S = 1.0


def run(config: Config, reread: Callable[[], Config]) -> int:
    """Run one daemon until it is told to stop; returns the exit status, raises MaglevError for what the operator must mend.

    `reread` gives what the command line and its file say by now, for SIGHUP.
    """
    logs.begin(verbose=config.verbose)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return asyncio.run(_run(config, reread))


class Signals:
    """What signals have asked for: to stop, to stop waiting for it, to make room for a restart, to read the configuration anew."""

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
    controller = asyncio.create_task(
        together(daemon.serve(), daemon.reload_whenever(signals.reload, reread))
    )
    await first_of(controller, signals.stop.wait(), signals.restart.wait())
    if signals.stop.is_set():
        await first_of(controller, daemon.drain(), signals.hurry.wait())
    controller.cancel()
    await asyncio.wait([controller])
    if signals.restart.is_set() and not signals.stop.is_set():
        await daemon.make_room()
    else:
        await daemon.leave()
    if not controller.cancelled():
        controller.result()
    return 0


class Supervisor:
    """All VIPs of one node. `serve` runs until it is cancelled or raises; `leave`, or `make_room` for a restart, follows in every case."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._name = name_of(config.my_id)
        self._kernel = kernel_identity()
        found = {vip: self._file(vip) for vip in config.vips}
        former = next((left for _file, left in found.values() if left is not None), None)
        self._session = Session(
            config.zk,
            config.session_timeout_s,
            self._notice,
            None if former is None else former.session,
            config.access,
        )
        self._sink = DaemonSink(config)
        self._session.on_answer = self._sink.answered
        self._context = VipContext(self._session, self._kernel, self._sink, self._note_settled)
        self._controllers = {
            vip: VipController(config, vip, self._context, *found[vip]) for vip in config.vips
        }
        self._tasks: dict[
            IPv4Address, asyncio.Task[None]
        ] = {}  # one for each VIP that is to be served
        self._leaving: dict[IPv4Address, asyncio.Task[None]] = {}  # and for each that is so no more
        self._failed: dict[IPv4Address, MaglevError] = {}
        self._changed = asyncio.Event()
        self._settled: set[IPv4Address] = (
            set()
        )  # those that have taken their first place in the table
        self._has_begun = self._is_ready = False

    def _file(self, vip: IPv4Address) -> tuple[SessionFile | None, SavedSession | None]:
        if self._config.dry_run:
            return None, None
        file = SessionFile(vip, self._config.zk, self._kernel)
        return file, file.read(self._config.session_timeout_s)

    async def serve(self) -> None:
        """Serve all VIPs for ever; raises what went wrong last once none can be served."""
        self._sink.start()
        for vip, controller in self._controllers.items():
            self._tasks[vip] = asyncio.create_task(self._kept(vip, controller))
        try:
            await together(
                diagnosis.narrate(self._session, self._config.zk),
                self._watch(),
                self._sink.run(),
                self._beat(),
                self._tell_systemd(),
            )
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _watch(self) -> None:
        """Notice the end of a VIP's task: it raises where nothing else is served."""
        while True:
            self._changed.clear()
            await first_of(*self._tasks.values(), self._changed.wait())
            for vip, task in list(self._tasks.items()):
                if task.done():
                    task.result()
                    del self._tasks[vip]

    async def _kept(self, vip: IPv4Address, controller: VipController) -> None:
        """Serve one VIP, beginning anew when that fails, while others are served; what is wrong with the flags a restart alone can mend."""
        backoff = Backoff(MAX_RETRY_S)
        while True:
            try:
                await controller.serve(self._connect)
            except MaglevError as error:
                self._failed[vip] = error
                if self._failed.keys() >= self._tasks.keys():
                    raise
                self._tell_ready()
                log.error("%s is not served: %s", vip, error)  # noqa: TRY400  a fact, not a traceback
                self._sink.raised(error)
                await controller.withdraw_and_leave()
                if isinstance(error, ConfigError):
                    return
            await asyncio.sleep(backoff.failed())
            controller = self._controllers[vip] = VipController(
                self._config, vip, self._context, *self._file(vip)
            )

    def _connect(self) -> None:
        """Begin to connect to ZooKeeper, once it is known that some VIP can be served on this host."""
        if not self._has_begun:
            self._has_begun = True
            self._session.start()

    def _note_settled(self, vip: IPv4Address) -> None:
        """A VIP has its place in the table."""
        self._failed.pop(vip, None)
        self._settled.add(vip)
        self._tell_ready()

    def _tell_ready(self) -> None:
        """Say once that the daemon serves: every VIP that can be has its place in the table."""
        can_be = self._tasks.keys() - self._failed.keys()
        if not self._is_ready and can_be and can_be <= self._settled:
            self._is_ready = True
            service_manager.ready()

    def _notice(self, path: str | None) -> None:
        for controller in self._controllers.values():
            controller.notice(path)

    async def _beat(self) -> None:
        """Be watched from when there is something to lose: by a thread of this process, and by systemd if it is asked to."""
        await self._session.until(SessionState.CONNECTED)
        watchdog = Watchdog(self._session.timeout_s)
        watchdog.start()
        asked_s = service_manager.watchdog_period_s()
        told_s = -math.inf
        while True:
            watchdog.beat()
            stuck = [controller for controller in self._controllers.values() if controller.is_stuck]
            if asked_s is not None and not stuck and time.monotonic() >= told_s + asked_s:
                service_manager.alive()
                told_s = time.monotonic()
            await asyncio.sleep(min(watchdog.period_s / 2, asked_s or math.inf))

    async def _tell_systemd(self) -> None:
        said = ""
        while True:
            words = self._words()
            if words != said:
                service_manager.status(words)
                said = words
            await asyncio.sleep(STATUS_S)

    def _words(self) -> str:
        parts = {
            vip: f"not served: {self._failed[vip]}" if vip in self._failed else controller.words
            for vip, controller in self._controllers.items()
        }
        if len(parts) == 1:
            return next(iter(parts.values()))
        return "; ".join(f"{vip} {words}" for vip, words in parts.items())

    async def reload_whenever(self, asked: asyncio.Event, reread: Callable[[], Config]) -> None:
        """Take over what may change of the configuration, each time that it is asked for."""
        while True:
            await asked.wait()
            asked.clear()
            if self._is_ready:
                service_manager.reloading()
            try:
                self._reload(reread())
            except MaglevError as error:
                log.error("the configuration stays as it was: %s", error)  # noqa: TRY400  a fact, not a traceback
                self._sink.raised(error)
            if self._is_ready:
                service_manager.ready()
            self._tell_ready()  # what it waited for may be dropped

    def _reload(self, wanted: Config) -> None:
        taken, left_alone = configuration.changes(self._config, wanted)
        if left_alone:
            log.warning("not taken over before a restart: %s", ", ".join(left_alone))
        config = configuration.taken_over(self._config, wanted)
        self._sink.reload(config)  # first, for it may find that an address is taken
        before, self._config = set(self._config.vips), config
        logs.set_verbose(verbose=config.verbose)
        for vip in sorted(before - set(config.vips)):
            self._drop(vip)
        for vip in self._tasks:
            self._controllers[vip].reload(config)
        for vip in sorted(
            set(config.vips) - self._tasks.keys()
        ):  # those too whose flags were wrong before
            self._tasks[vip] = asyncio.create_task(self._added(vip))
        self._changed.set()
        log.info("took over: %s", ", ".join(taken) if taken else "nothing, for nothing has changed")

    def _drop(self, vip: IPv4Address) -> None:
        """Serve a VIP no more: as at the daemon's end, while it goes on with the others."""
        task, controller = self._tasks.pop(vip, None), self._controllers[vip]
        self._failed.pop(vip, None)
        self._settled.discard(vip)
        self._leaving[vip] = asyncio.create_task(self._dropped(vip, task, controller))

    async def _dropped(
        self, vip: IPv4Address, task: asyncio.Task[None] | None, controller: VipController
    ) -> None:
        if task is not None:
            await first_of(task, controller.drain())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await controller.withdraw_and_leave()
        if self._controllers.get(vip) is controller:
            del self._controllers[vip]

    async def _added(self, vip: IPv4Address) -> None:
        """Serve a VIP from now on, once what came before it under that address has ended."""
        if vip in self._leaving:
            await asyncio.wait([self._leaving.pop(vip)])
        controller = self._controllers[vip] = VipController(
            self._config, vip, self._context, *self._file(vip)
        )
        await self._kept(vip, controller)

    async def drain(self) -> None:
        """Give everything up by hand-over and wait for connections to end, as long as the flags allow."""
        service_manager.stopping(self._config.drain_timeout_s + STOP_MARGIN_S)
        await asyncio.gather(*(controller.drain() for controller in self._controllers.values()))

    async def leave(self) -> None:
        """Leave ZooKeeper, remove what was added: in this order, and whatever of it fails."""
        for task in self._leaving.values():
            task.cancel()
        await asyncio.gather(*self._leaving.values(), return_exceptions=True)
        await asyncio.gather(*(controller.withdraw() for controller in self._controllers.values()))
        await self._session.close()
        for controller in self._controllers.values():
            await controller.leave()
        await self._sink.close()

    async def make_room(self) -> None:
        """End here and now: kernel and session stay as they are for the daemon that comes next, with as much time as a lease has."""
        await asyncio.gather(
            *(controller.renew_once() for controller in self._controllers.values())
        )
        log.info(
            "%s makes room for a restart: its node numbers stay in force until the lease ends",
            self._name,
        )
        sys.stdout.flush()
        os._exit(
            0
        )  # tidying up the interpreter takes a tenth of a second, which the next daemon can use better
