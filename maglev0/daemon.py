"""The daemon: one loop, one way: ZooKeeper session -> view -> table -> what this node owns -> dataplane -> kernel.

Watches, session events and kernel events only wake the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import time
from ipaddress import IPv4Address

from maglev0 import diagnosis, interface, logs
from maglev0.config import Config, printable
from maglev0.dataplane import choose
from maglev0.errors import DataplaneError, MaglevError, UnavailableError
from maglev0.follower import NOTHING, Follower
from maglev0.interface import Interface
from maglev0.membership import Membership, Unsettled
from maglev0.service import HashFamily
from maglev0.settings import Settings
from maglev0.upkeep import Upkeep
from maglev0.view import ACTIVE, DRY_RUN, Member, name_of
from maglev0.waiting import Backoff, first_of, together
from maglev0.watchdog import Watchdog
from maglev0.zookeeper import Disconnected, Session, State

log = logging.getLogger(__name__)

LEASE_SHARE = 2 / 3  # of the session timeout of the node that founds the cluster
WEIGHT = 1


def run(config: Config) -> int:
    """Run one daemon until it is told to stop; returns the exit status, raises MaglevError for what the operator must mend."""
    logs.begin(verbose=config.verbose)
    return asyncio.run(_run(config))


async def _run(config: Config) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with contextlib.ExitStack() as claims:
        daemon = Daemon(config)
        serving = asyncio.create_task(daemon.serve(claims))
        await first_of(serving, stop.wait())
        serving.cancel()
        await asyncio.wait([serving])
        await daemon.leave()
    if not serving.cancelled():
        serving.result()
    return 0


class Daemon:
    """One node of one VIP. `serve` runs until it is cancelled or raises; `leave` follows in every case."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._name = name_of(config.my_id)
        self._start_time = time.time()
        self._wake = asyncio.Event()
        self._session = Session(config.zk, config.session_timeout_s, self._wake.set)
        self._membership = Membership(self._session, config.zk, config.vip)
        self._has_claim = False
        self._upkeep: Upkeep | None = None

    async def serve(self, claims: contextlib.ExitStack) -> None:
        """Come up, then follow the cluster's view for ever; what must be held meanwhile goes onto `claims`."""
        config = self._config
        if not config.dry_run:
            claims.enter_context(_claim(config.vip))
            self._has_claim = True
            choose.let_go(config.vip)  # a killed daemon's buckets may be others' by now, and ZooKeeper may be long in coming
        families = _families(config)
        where = await _interface(config)
        self._session.start()
        await together(diagnosis.narrate(self._session, config.zk), self._take_part(families, where))

    async def _take_part(self, families: tuple[HashFamily, ...], where: Interface) -> None:
        config = self._config
        settings = await self._agree(families)
        self._say_settings(settings, where)
        dataplane = choose.make(settings.hash_family, settings.service(config.vip, where.name), dry_run=config.dry_run)
        self._upkeep = Upkeep(dataplane, self._wake.set)
        await self._upkeep.open()
        me = self._record(settings, where)
        follower = Follower(self._session, self._membership, self._upkeep, me=me, total_nodes=settings.total_nodes, wake=self._wake.set)
        watchdog = Watchdog(self._session.timeout_s)
        watchdog.start()
        await together(_beat(watchdog), self._upkeep.mend(), follower.keep_time(), self._follow(follower))

    async def leave(self) -> None:
        """Stop owning, leave ZooKeeper, remove what was added: in this order, and whatever of it fails."""
        if self._upkeep is not None:
            with contextlib.suppress(DataplaneError):  # rules that are gone own nothing
                await self._upkeep.own(NOTHING)
        await self._session.close()
        if self._upkeep is not None:
            await self._upkeep.close()
            log.info("%s left", self._name)
        elif self._has_claim:
            await choose.remove_leftovers(self._config.vip)

    async def _agree(self, families: tuple[HashFamily, ...]) -> Settings:
        """Wait for ZooKeeper, however long that takes, and find the cluster's settings there."""
        config, backoff = self._config, Backoff()
        wishes = config.wishes(families, None if config.dry_run else choose.rule_by_hand(config.vip, families))
        while True:
            await self._session.until(State.CONNECTED)
            try:
                lease_ms = int(1000 * LEASE_SHARE * self._session.timeout_s)
                settings = await self._membership.agree(config.my_id, wishes, config.vip, lease_ms)
            except (Disconnected, Unsettled) as error:
                log.debug("settings not agreed yet: %r", error)
                await asyncio.sleep(backoff.failed())
            else:
                return settings

    async def _follow(self, follower: Follower) -> None:
        while True:
            self._wake.clear()
            pause_s = await follower.round()
            await first_of(self._wake.wait(), timeout_s=pause_s)

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
            weight=WEIGHT,
            state=DRY_RUN if config.dry_run else ACTIVE,
            session_timeout_s=self._session.timeout_s,
        )

    def _say_settings(self, settings: Settings, where: Interface) -> None:
        config = self._config
        log.info(
            "%s: VIP %s on %s, %s%s, %d node numbers by %s, cluster MAC %s, ZooKeeper %s, session timeout %.1f s",
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
        )


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
