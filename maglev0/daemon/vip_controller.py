"""One virtual IP in the daemon: from the claim on this host until the member has left ZooKeeper."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import NamedTuple

from maglev0.config.configuration import Config, ZooKeeperLoss
from maglev0.coordination.session import Session, SessionState
from maglev0.coordination.session_file import SavedSession, SessionFile
from maglev0.core.service import HashFamily
from maglev0.core.settings import SEED_LIMIT, Settings
from maglev0.core.text import printable
from maglev0.core.view import Member, name_of
from maglev0.daemon.host_claim import HostClaim
from maglev0.daemon.node_driver import NodeDriver
from maglev0.daemon.reconciler import Reconciler
from maglev0.daemon.wanted_record import WantedRecord
from maglev0.dataplane import select
from maglev0.dataplane.host import interface
from maglev0.dataplane.host.interface import Interface
from maglev0.errors import UnavailableError
from maglev0.protocol.agreement import Agreement, Founder, Unsettled
from maglev0.protocol.lease import terms
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import Disconnected
from maglev0.protocol.progress import ClusterContext
from maglev0.runtime.waiting import Backoff, in_thread, together
from maglev0.telemetry.ports import TelemetrySink, VipSink
from maglev0.telemetry.reporter import Reporter

log = logging.getLogger(__name__)


class VipContext(NamedTuple):
    """What all VIPs of a daemon share: session, kernel with network namespace, and sink.

    `settled` is called when a VIP has its first place in the table.
    """

    session: Session
    kernel: str
    sink: TelemetrySink
    settled: Callable[[IPv4Address], None]


class Running(NamedTuple):
    """The parts of a VIP that is started: they exist together, until the VIP has left."""

    settings: Settings
    interface: Interface
    reconciler: Reconciler
    driver: NodeDriver
    reporter: Reporter


class VipController:
    """One attempt to serve one VIP. `serve` runs until it is cancelled or raises.

    In every case `leave` follows, or `renew_once` before a restart. Both are harmless where nothing
    was started, and when they are called again.
    """

    def __init__(
        self,
        config: Config,
        vip: IPv4Address,
        context: VipContext,
        file: SessionFile | None,
        former: SavedSession | None,
    ) -> None:
        self.vip = vip
        self.paths = Paths(f"{config.zk.chroot}/maglev0/{vip}")
        self._config = config
        self._context = context
        self._session = context.session
        self._file = file
        self._former = former
        self._name = name_of(config.my_id)
        self._start_time = time.time()
        self._agreement = Agreement(self._session, self.paths)
        self._wanted = WantedRecord(
            self._session, self.paths.order(config.my_id), vip, config, self._adapt
        )
        self._claim: HostClaim | None = None  # a dry run claims nothing
        self._reconciler: Reconciler | None = None
        self._running: Running | None = None
        self._is_following = self._is_settled = False

    async def serve(self, connect: Callable[[], None]) -> None:
        """Start, then follow the view for ever; `connect` is called once this host is fit."""
        self._running = running = await self._start(connect)
        self._is_following = True
        try:
            await together(
                running.reconciler.reconcile(),
                running.driver.follow(),
                running.reporter.run(),
                self._wanted.run(),
            )
        finally:
            self._is_following = False

    async def _start(self, connect: Callable[[], None]) -> Running:
        """Make every part of the VIP, in the order in which each needs the one before."""
        config = self._config
        if self._file is not None:
            self._claim = HostClaim(self.vip, self._file)
            select.close_unguarded(self.vip)
        families = await in_thread(lambda: _families(config, self.vip))
        where = await _interface(config, self.vip)
        connect()
        settings = await self._agree(families)
        if self._claim is not None:
            self._claim.note_settings(settings)
            self._claim.save(self._session)
        self._log_settings(settings, where)
        reconciler = self._reconciler = self._make_reconciler(settings, where)
        await reconciler.open()
        await self._wanted.learn()
        cluster = ClusterContext(
            self.paths, settings, self._context.kernel, config.zk_loss is ZooKeeperLoss.HOLD
        )
        driver = NodeDriver(
            self._session, reconciler, self._agreement, cluster, self._record(settings, where)
        )
        reporter = Reporter(
            self._session,
            reconciler,
            driver,
            cluster=cluster,
            sink=VipSink(self.vip, self._context.sink),
            checks=self._wanted,
        )
        driver.on_progress = self._progressed
        return Running(settings, where, reconciler, driver, reporter)

    def _make_reconciler(self, settings: Settings, where: Interface) -> Reconciler:
        config = self._config
        dataplane = select.make(
            settings.hash_family,
            settings.service(self.vip, where.name),
            settings.lease_ms,
            config.xdp,
            dry_run=config.dry_run,
            counted=config.metrics is not None,
        )
        return Reconciler(dataplane, self._kernel_changed)

    def notice(self, path: str | None) -> None:
        """Take what ZooKeeper reports: the path of a changed znode; `None`: the session changed."""
        if path is None:
            self.save_session()
        elif not path.startswith(f"{self.paths.base}/"):
            return
        is_order = path == self.paths.order(self._config.my_id)
        if is_order or path is None:
            self._wanted.notice_order()
        if self._running is not None and not is_order:
            self._running.driver.notice(path)

    def save_session(self) -> None:
        """Save what a daemon after this one needs to take the member's place back."""
        if self._claim is not None:
            self._claim.save(self._session)

    def _kernel_changed(self) -> None:
        if self._running is not None:
            self._running.driver.kernel_changed()

    def _progressed(self) -> None:
        """Pass the driver's progress on."""
        if self._running is None:
            return
        if not self._is_settled and self._running.driver.progress.is_settled:
            self._is_settled = True
            self._context.settled(self.vip)
        self._running.reporter.look()

    def _adapt(self) -> None:
        """Pass the wanted record on."""
        if self._running is not None:
            driver = self._running.driver
            driver.wish(self._wanted.wish(leaving=driver.leaving))
            self._running.reporter.look()

    @property
    def is_stuck(self) -> bool:
        """Whether the VIP is followed and its renewals do not come round, though the loop turns."""
        return self._is_following and self._running is not None and self._running.driver.is_stuck

    @property
    def words(self) -> str:
        """What the VIP does, for people."""
        return "starting" if self._running is None else self._running.reporter.words

    @property
    def lease_left_s(self) -> float | None:
        """Seconds until the lease expires without a renewal; `None` where nothing is started."""
        return None if self._running is None else self._running.driver.progress.lease_left_s

    def reload(self, config: Config) -> None:
        """Take what may change while the VIP is served."""
        self._config = config
        self._wanted.reload(config)

    async def drain(self) -> None:
        """Hand everything over and wait for connections to end, at most for --drain-timeout."""
        if self._running is not None:
            await self._running.driver.drain(self._config.drain_timeout_s)

    async def withdraw(self) -> None:
        """Leave the cluster, if ZooKeeper answers at once."""
        if self._running is not None:
            await self._running.driver.leave()

    async def withdraw_and_leave(self) -> None:
        """Leave while the session goes on.

        The session keeps the member's record, so this waits until ZooKeeper has confirmed that the
        record is gone, however long that takes.
        """
        backoff = Backoff()
        running = self._running
        if running is not None:
            while not running.driver.has_withdrawn:
                await self._session.until(SessionState.CONNECTED)
                await running.driver.leave()
                if not running.driver.has_withdrawn:
                    await asyncio.sleep(backoff.failed())
            await running.reporter.withdraw()
        await self.leave()

    async def leave(self) -> None:
        """Remove what was added here, once: another daemon may serve the VIP afterwards.

        Call it when the node is no member any more, or when its session is closed.
        """
        claim, reconciler, running = self._claim, self._reconciler, self._running
        if claim is not None:
            claim.forget()
        if reconciler is not None:
            await reconciler.close()
            vip = "" if len(self._config.vips) == 1 else f" {self.vip}"
            log.info("%s left%s", self._name, vip)
        elif claim is not None:
            await select.remove_leftovers(self.vip)
        self._claim = self._reconciler = self._running = None
        if claim is not None:
            claim.release()
        if running is not None:
            running.reporter.end()
        self._context.sink.left(self.vip)

    async def renew_once(self) -> None:
        """Renew the lease a last time before a restart."""
        if self._running is not None:
            await self._running.driver.renew_once()

    async def _agree(self, families: tuple[HashFamily, ...]) -> Settings:
        """Wait for ZooKeeper for any time, and agree with the cluster on its settings."""
        config, backoff = self._config, Backoff()
        wishes = config.wishes(
            families, None if config.dry_run else select.rule_by_hand(self.vip, families)
        )
        seed = secrets.randbelow(SEED_LIMIT)
        while True:
            await self._session.until(SessionState.CONNECTED)
            former = self._former
            same = former is not None and former.session.id == self._session.session
            founder = Founder(
                self.vip,
                self._session.timeout_s,
                seed,
                former.settings if former is not None and same else None,
            )
            try:
                return await self._agreement.agree(config.my_id, wishes, founder)
            except (Disconnected, Unsettled) as error:
                log.debug("settings not agreed yet: %r", error)
                await asyncio.sleep(backoff.failed())

    def _record(self, settings: Settings, where: Interface) -> Member:
        config = self._config
        wish = self._wanted.wish(leaving=False)
        return Member(
            id=config.my_id,
            host=printable(socket.gethostname()),
            pid=os.getpid(),
            start_time=self._start_time,
            address=where.address,
            mac=where.mac,
            dataplane=settings.hash_family,
            weight=wish.weight,
            state=wish.state,
            session_timeout_s=self._session.timeout_s,
        )

    def _log_settings(self, settings: Settings, where: Interface) -> None:
        config, agreed = self._config, terms(settings.lease_ms)
        log.info(
            "%s: VIP %s on %s, %s%s, %d buckets by %s, cluster MAC %s, ZooKeeper %s,"
            " session timeout %.1f s, lease %.1f s",
            self._name,
            self.vip,
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
            log.warning(
                "a crash costs more than a session timeout: the cluster's lease of %.1f s is longer"
                " than two thirds of it",
                agreed.length_s,
            )
        if config.zk_loss is ZooKeeperLoss.HOLD:
            log.warning(
                "--zk-loss=hold: while ZooKeeper is away, two nodes may answer the same client"
            )


def _families(config: Config, vip: IPv4Address) -> tuple[HashFamily, ...]:
    """The hash families that this node can run, the best first; a dry run can run any."""
    if config.dry_run:
        return (
            (config.dataplane,) if config.dataplane else (HashFamily.NFTABLES, HashFamily.CLUSTERIP)
        )
    return select.runnable(vip, config.dataplane)


async def _interface(config: Config, vip: IPv4Address) -> Interface:
    try:
        return await interface.find(vip, config.interface)
    except UnavailableError:
        if config.dry_run and config.interface is None:
            return Interface("", "", "")
        raise
