"""The daemon: one loop, one way: ZooKeeper session -> view -> table -> what this node owns -> dataplane -> kernel.

Watches, session events and kernel events only wake the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import struct
import sys
import time
from ipaddress import IPv4Address

from maglev0 import diagnosis, interface, logs, servicemanager
from maglev0.agreement import Agreement, Founder, Unsettled
from maglev0.config import Config, ZooKeeperLoss, printable
from maglev0.dataplane import choose
from maglev0.errors import MaglevError, UnavailableError
from maglev0.follower import Cluster, Follower
from maglev0.interface import Interface
from maglev0.lease import terms
from maglev0.paths import Paths
from maglev0.service import HashFamily
from maglev0.sessionfile import Left, SessionFile, kernel_identity
from maglev0.settings import SEED_LIMIT, Settings
from maglev0.upkeep import Upkeep
from maglev0.view import ACTIVE, DRY_RUN, Member, name_of
from maglev0.waiting import Backoff, first_of, together
from maglev0.watchdog import Watchdog
from maglev0.znodes import Disconnected
from maglev0.zookeeper import Session, State

log = logging.getLogger(__name__)

# Kazoo's threads and the loop hand over to each other several times for each answer of ZooKeeper; at Python's 5 ms a hand-over would wait for that.
SWITCH_INTERVAL_S = 0.0005
STOP_MARGIN_S = 10.0  # of the drain time-out: hand-over, leaving ZooKeeper and removing what was added take under 3 s


def run(config: Config) -> int:
    """Run one daemon until it is told to stop; returns the exit status, raises MaglevError for what the operator must mend."""
    logs.begin(verbose=config.verbose)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return asyncio.run(_run(config))


class Orders:
    """What signals have asked for: to stop, to stop waiting for it, to make room for a restart."""

    def __init__(self) -> None:
        self.stop, self.hurry, self.restart = asyncio.Event(), asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGUSR1, self.restart.set)

    def _stop(self) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()


async def _run(config: Config) -> int:
    orders = Orders()
    with contextlib.ExitStack() as claims:
        daemon = Daemon(config)
        serving = asyncio.create_task(daemon.serve(claims))
        await first_of(serving, orders.stop.wait(), orders.restart.wait())
        if orders.stop.is_set():
            await first_of(serving, daemon.drain(), orders.hurry.wait())
        serving.cancel()
        await asyncio.wait([serving])
        if orders.restart.is_set() and not orders.stop.is_set():
            await daemon.make_room()
        else:
            await daemon.leave()
    if not serving.cancelled():
        serving.result()
    return 0


class Daemon:
    """One node of one VIP. `serve` runs until it is cancelled or raises; `leave`, or `make_room` for a restart, follows in every case."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._name = name_of(config.my_id)
        self._start_time = time.time()
        self._kernel = kernel_identity()
        self._file = None if config.dry_run else SessionFile(config.vip, config.zk, self._kernel)
        self._former = None if self._file is None else self._file.read(config.session_timeout_s)
        self._session = Session(config.zk, config.session_timeout_s, self._notice, None if self._former is None else self._former.session)
        self._settings: Settings | None = None
        self._paths = Paths(f"{config.zk.chroot}/maglev0/{config.vip}")
        self._agreement = Agreement(self._session, self._paths)
        self._has_claim = False
        self._upkeep: Upkeep | None = None
        self._follower: Follower | None = None

    async def serve(self, claims: contextlib.ExitStack) -> None:
        """Come up, then follow the cluster's view for ever; what must be held meanwhile goes onto `claims`."""
        config = self._config
        if not config.dry_run:
            claims.enter_context(_claim(config.vip))
            self._has_claim = True
            choose.close_unguarded(config.vip)
        families = _families(config)
        where = await _interface(config)
        self._session.start()
        await together(diagnosis.narrate(self._session, config.zk), self._take_part(families, where))

    async def _take_part(self, families: tuple[HashFamily, ...], where: Interface) -> None:
        config = self._config
        self._settings = settings = await self._agree(families)
        self._leave_word()
        self._say_settings(settings, where)
        service = settings.service(config.vip, where.name)
        dataplane = choose.make(settings.hash_family, service, settings.lease_ms, config.xdp, dry_run=config.dry_run)
        self._upkeep = Upkeep(dataplane, self._kernel_changed)
        await self._upkeep.open()
        cluster = Cluster(self._paths, settings, self._kernel, config.zk_loss is ZooKeeperLoss.HOLD)
        self._follower = Follower(self._session, self._upkeep, self._agreement, cluster, self._record(settings, where))
        watchdog = Watchdog(self._session.timeout_s)
        watchdog.start()
        await together(_beat(watchdog), self._upkeep.mend(), self._follower.follow())

    def _notice(self, path: str | None) -> None:
        if path is None:
            self._leave_word()
        if self._follower is not None:
            self._follower.notice(path)

    def _leave_word(self) -> None:
        """Write down what a daemon that comes after this one needs to take its place back."""
        session = self._session.identity
        if self._file is not None and self._settings is not None and session is not None and self._session.state is State.CONNECTED:
            self._file.write(Left(session, self._settings))

    def _kernel_changed(self) -> None:
        if self._follower is not None:
            self._follower.kernel_changed()

    async def drain(self) -> None:
        """Give everything up by hand-over and wait for connections to end, as long as the flags allow."""
        if self._follower is not None:
            servicemanager.stopping(self._config.drain_timeout_s + STOP_MARGIN_S)
            await self._follower.drain(self._config.drain_timeout_s)

    async def leave(self) -> None:
        """Leave ZooKeeper, remove what was added: in this order, and whatever of it fails."""
        if self._follower is not None:
            await self._follower.leave()
        await self._session.close()
        if self._file is not None and self._has_claim:
            self._file.remove()
        if self._upkeep is not None:
            await self._upkeep.close()
            log.info("%s left", self._name)
        elif self._has_claim:
            await choose.remove_leftovers(self._config.vip)

    async def make_room(self) -> None:
        """End here and now: kernel and session stay as they are for the daemon that comes next, with as much time as a lease has."""
        if self._follower is not None:
            await self._follower.renew_once()
        log.info("%s makes room for a restart: its node numbers stay in force until the lease ends", self._name)
        sys.stdout.flush()
        os._exit(0)  # tidying up the interpreter takes a tenth of a second, which the next daemon can use better

    async def _agree(self, families: tuple[HashFamily, ...]) -> Settings:
        """Wait for ZooKeeper, however long that takes, and find the cluster's settings there."""
        config, backoff = self._config, Backoff()
        wishes = config.wishes(families, None if config.dry_run else choose.rule_by_hand(config.vip, families))
        seed = secrets.randbelow(SEED_LIMIT)
        while True:
            await self._session.until(State.CONNECTED)
            former = self._former
            same = former is not None and former.session.id == self._session.session
            founder = Founder(config.vip, self._session.timeout_s, seed, former.settings if former is not None and same else None)
            try:
                return await self._agreement.agree(config.my_id, wishes, founder)
            except (Disconnected, Unsettled) as error:
                log.debug("settings not agreed yet: %r", error)
                await asyncio.sleep(backoff.failed())

    def _record(self, settings: Settings, where: Interface) -> Member:
        config = self._config
        return Member(
            id=config.my_id,
            host=printable(socket.gethostname()),
            pid=os.getpid(),
            start_time=self._start_time,
            address=where.address,
            mac=where.mac,
            dataplane=settings.hash_family,
            weight=config.weight,
            state=DRY_RUN if config.dry_run else ACTIVE,
            session_timeout_s=self._session.timeout_s,
        )

    def _say_settings(self, settings: Settings, where: Interface) -> None:
        config, agreed = self._config, terms(settings.lease_ms)
        log.info(
            "%s: VIP %s on %s, %s%s, %d node numbers by %s, cluster MAC %s, ZooKeeper %s, session timeout %.1f s, lease %.1f s",
            self._name,
            config.vip,
            where.name or "no interface",
            settings.hash_family,
            " (dry run)" if config.dry_run else "",
            settings.total_nodes,
            settings.hash_mode,
            settings.cluster_mac,
            config.zk,
            self._session.timeout_s,
            agreed.length_s,
        )
        if agreed.over_s + agreed.interval_s > self._session.timeout_s:
            log.warning("a crash costs more than a session timeout: the cluster's lease of %.1f s is longer than two thirds of it", agreed.length_s)
        if config.zk_loss is ZooKeeperLoss.HOLD:
            log.warning("--zk-loss=hold: while ZooKeeper is away, two nodes may answer the same client")


def _families(config: Config) -> tuple[HashFamily, ...]:
    """The hash families that this node can run, the best first; a dry run can run any."""
    if config.dry_run:
        return (config.dataplane,) if config.dataplane else (HashFamily.NFTABLES, HashFamily.CLUSTERIP)
    return choose.runnable(config.vip, config.dataplane)


async def _interface(config: Config) -> Interface:
    try:
        return await interface.find(config.vip, config.interface)
    except UnavailableError:
        if config.dry_run and config.interface is None:
            return Interface("", "", "")
        raise


def _claim(vip: IPv4Address) -> socket.socket:
    """Be the one daemon for the VIP on this host: a second one would remove the first one's rules when it leaves.

    An abstract socket (unix(7)) belongs to a network namespace, as the rules do, and goes with the process however that ends.
    """
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(_claim_name(vip))
        claim.listen()
    except OSError as error:
        claim.close()
        raise MaglevError(f"another maglev0 serves {vip} on this host already ({_claimant(vip)}): stop it first") from error
    return claim


def _claim_name(vip: IPv4Address) -> str:
    return f"\0maglev0/{vip}"


def _claimant(vip: IPv4Address) -> str:
    """Who holds the claim, as the kernel knows it: any user may bind that name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(_claim_name(vip))
            pid, uid, _gid = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return "which is just ending"
    return f"pid {pid} of uid {uid}"


async def _beat(watchdog: Watchdog) -> None:
    while True:
        watchdog.beat()
        await asyncio.sleep(watchdog.period_s / 2)
