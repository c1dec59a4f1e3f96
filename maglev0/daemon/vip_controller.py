"""One virtual IP's part in the daemon, from its claim on this host to the last word in ZooKeeper; several share one session."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import NamedTuple

from maglev0.config.configuration import Config, ZooKeeperLoss
from maglev0.coordination.session import Session, SessionState
from maglev0.coordination.session_file import SavedSession, SessionFile
from maglev0.core.service import HashFamily
from maglev0.core.settings import SEED_LIMIT, Settings
from maglev0.core.text import printable
from maglev0.core.view import ACTIVE, Member, name_of
from maglev0.daemon.node_driver import NodeDriver
from maglev0.daemon.reconciler import Reconciler
from maglev0.dataplane import select
from maglev0.dataplane.host import interface
from maglev0.dataplane.host.interface import Interface
from maglev0.errors import MaglevError, UnavailableError
from maglev0.health.runner import CheckRunner
from maglev0.protocol import orders
from maglev0.protocol.agreement import Agreement, Founder, Unsettled
from maglev0.protocol.lease import terms
from maglev0.protocol.orders import Order
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import Disconnected
from maglev0.protocol.progress import ClusterContext
from maglev0.runtime.waiting import Backoff, in_thread, together, until_set
from maglev0.telemetry.reporter import Reporter, TelemetrySink, VipSink

log = logging.getLogger(__name__)


class VipContext(NamedTuple):
    """Where VIPs are served: the session that they share, the kernel and network namespace, and who is told what happens.

    `settled` is called when one of them has taken its first place in the table.
    """

    session: Session
    kernel: str
    sink: TelemetrySink
    settled: Callable[[IPv4Address], None]


class VipController:
    """One node of one VIP. `serve` runs until it is cancelled or raises; `leave`, or `renew_once` before a restart, follows in every case."""

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
        self._is_settled = False  # whether it has taken its first place in the table
        self._config = config
        self._context = context
        self._session = context.session
        self._file = file
        self._former = former
        self._name = name_of(config.my_id)
        self._start_time = time.time()
        self._agreement = Agreement(self._session, self.paths)
        self._settings: Settings | None = None
        self._claim: socket.socket | None = None
        self._reconciler: Reconciler | None = None
        self._driver: NodeDriver | None = None
        self._reporter: Reporter | None = None
        self._checks = CheckRunner(vip, (), config.check_timing, self._adapt)
        self._order = Order()
        self._order_stale, self._reloaded = asyncio.Event(), asyncio.Event()

    async def serve(self, connect: Callable[[], None]) -> None:
        """Come up, then follow the cluster's view for ever; `connect` is called when this host is found fit for it."""
        config = self._config
        if not config.dry_run:
            self._claim = _claim(self.vip)
            select.close_unguarded(self.vip)
        families = await in_thread(lambda: _families(config, self.vip))
        where = await _interface(config, self.vip)
        connect()
        self._settings = settings = await self._agree(families)
        self.leave_word()
        self._say_settings(settings, where)
        service = settings.service(self.vip, where.name)
        counted = config.metrics is not None
        dataplane = select.make(
            settings.hash_family,
            service,
            settings.lease_ms,
            config.xdp,
            dry_run=config.dry_run,
            counted=counted,
        )
        self._reconciler = Reconciler(dataplane, self._kernel_changed)
        await self._reconciler.open()
        await self._learn_order()
        await self._check_first()  # a node joins by what its checks say first
        await self._follow(settings, where, self._reconciler)

    async def _follow(self, settings: Settings, where: Interface, reconciler: Reconciler) -> None:
        cluster = ClusterContext(
            self.paths, settings, self._context.kernel, self._config.zk_loss is ZooKeeperLoss.HOLD
        )
        self._driver = driver = NodeDriver(
            self._session, reconciler, self._agreement, cluster, self._record(settings, where)
        )
        self._reporter = reporter = Reporter(
            self._session,
            reconciler,
            driver,
            cluster=cluster,
            sink=VipSink(self.vip, self._context.sink),
            checks=self._checks,
        )
        driver.on_progress = self._progressed
        await together(
            reconciler.mend(), driver.follow(), reporter.run(), self._obey(), self._check()
        )

    def notice(self, path: str | None) -> None:
        """Take what ZooKeeper tells: a znode that changed, or `None` when the session did."""
        if path is None:
            self.leave_word()
        elif not path.startswith(f"{self.paths.base}/"):
            return
        is_order = path == self.paths.order(self._config.my_id)
        if is_order or path is None:
            self._order_stale.set()
        if self._driver is not None and not is_order:
            self._driver.notice(path)

    def leave_word(self) -> None:
        """Write down what a daemon that comes after this one needs to take its place back."""
        session = self._session.identity
        if (
            self._file is not None
            and self._settings is not None
            and session is not None
            and self._session.state is SessionState.CONNECTED
        ):
            self._file.write(SavedSession(session, self._settings))

    def _kernel_changed(self) -> None:
        if self._driver is not None:
            self._driver.kernel_changed()

    def _progressed(self) -> None:
        """The driver has come further: tell who waits for it."""
        if not self._is_settled and self._driver is not None and self._driver.progress.is_settled:
            self._is_settled = True
            self._context.settled(self.vip)
        if self._reporter is not None:
            self._reporter.look()

    @property
    def is_stuck(self) -> bool:
        """Whether the loop turns but this part of it does not come round any more."""
        return self._driver is not None and self._driver.is_stuck

    @property
    def words(self) -> str:
        """What it does, for people."""
        return "starting" if self._reporter is None else self._reporter.words

    def reload(self, config: Config) -> None:
        """Take over what may change while it serves."""
        before, self._config = self._config, config
        if (before.checks, before.check_timing) != (config.checks, config.check_timing):
            self._reloaded.set()
        self._adapt()

    # What the record says of this node: its own flags, what was ordered, and its health.

    async def _learn_order(self) -> None:
        """Read what operators want of this node; an order that cannot be read changes nothing."""
        backoff = Backoff()
        while True:
            await self._session.until(SessionState.CONNECTED)
            self._order_stale.clear()
            try:
                node = await self._session.get(self.paths.order(self._config.my_id), watch=True)
                self._order = Order() if node is None or not node.ours else orders.decode(node.data)
            except Disconnected:
                await asyncio.sleep(backoff.failed())
            except ValueError as error:
                log.warning("ignored %s: %s", self.paths.order(self._config.my_id), error)
                return
            else:
                return

    async def _obey(self) -> None:
        """Do as operators want, and tell of it, for ever."""
        told = Order()
        while True:
            if self._order != told:
                log.info("%s is %s", self._name, _ordered(self._order, self._config.weight))
                told = self._order
            self._adapt()
            await self._order_stale.wait()
            await self._learn_order()

    def _adapt(self) -> None:
        """Have the record say what it should now."""
        if self._driver is not None:
            config = self._config
            wish = orders.wish(
                self._order,
                config.weight,
                healthy=self._checks.healthy,
                dry_run=config.dry_run,
                leaving=self._driver.leaving,
            )
            self._driver.wish(wish)
        if self._reporter is not None:
            self._reporter.checks = self._checks
            self._reporter.look()

    async def _check_first(self) -> None:
        """Begin with the checks of the configuration, and wait until each has told once."""
        self._reloaded.clear()
        checks = CheckRunner(self.vip, self._config.checks, self._config.check_timing, self._adapt)
        await checks.first()
        self._checks = checks

    async def _check(self) -> None:
        """Check this node's health for ever, by whatever checks the configuration names."""
        while True:
            await together(self._checks.run(), until_set(self._reloaded))
            await self._check_first()
            self._adapt()

    async def drain(self) -> None:
        """Give everything up by hand-over and wait for connections to end, as long as the flags allow."""
        if self._driver is not None:
            await self._driver.drain(self._config.drain_timeout_s)

    async def withdraw(self) -> None:
        """Be no member any more, as far as ZooKeeper can be told now."""
        if self._driver is not None:
            await self._driver.leave()

    async def withdraw_and_leave(self) -> None:
        """End this part while its session goes on: the others must know that it is no member any more, however long telling them takes."""
        backoff = Backoff()
        while self._driver is not None:
            await self._session.until(SessionState.CONNECTED)
            await self.withdraw()
            if self._driver.has_withdrawn:
                break
            await asyncio.sleep(backoff.failed())
        if self._reporter is not None:
            await self._reporter.withdraw()
        await self.leave()

    async def leave(self) -> None:
        """Remove what was added; called when it is no member any more, or its session is closed."""
        if self._file is not None and self._claim is not None:
            self._file.remove()
        if self._reconciler is not None:
            await self._reconciler.close()
            log.info("%s left%s", self._name, "" if len(self._config.vips) == 1 else f" {self.vip}")
        elif self._claim is not None:
            await select.remove_leftovers(self.vip)
        if self._claim is not None:
            self._claim.close()
        if self._reporter is not None:
            self._reporter.end()
        self._context.sink.left(self.vip)

    async def renew_once(self) -> None:
        """Renew the lease a last time before a restart."""
        if self._driver is not None:
            await self._driver.renew_once()

    async def _agree(self, families: tuple[HashFamily, ...]) -> Settings:
        """Wait for ZooKeeper, however long that takes, and find the cluster's settings there."""
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
        me = Member(
            id=config.my_id,
            host=printable(socket.gethostname()),
            pid=os.getpid(),
            start_time=self._start_time,
            address=where.address,
            mac=where.mac,
            dataplane=settings.hash_family,
            weight=config.weight,
            state=ACTIVE,
            session_timeout_s=self._session.timeout_s,
        )
        wish = orders.wish(
            self._order,
            config.weight,
            healthy=self._checks.healthy,
            dry_run=config.dry_run,
            leaving=False,
        )
        return replace(me, state=wish.state, weight=wish.weight)

    def _say_settings(self, settings: Settings, where: Interface) -> None:
        config, agreed = self._config, terms(settings.lease_ms)
        log.info(
            "%s: VIP %s on %s, %s%s, %d node numbers by %s, cluster MAC %s, ZooKeeper %s, session timeout %.1f s, lease %.1f s",
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
                "a crash costs more than a session timeout: the cluster's lease of %.1f s is longer than two thirds of it",
                agreed.length_s,
            )
        if config.zk_loss is ZooKeeperLoss.HOLD:
            log.warning(
                "--zk-loss=hold: while ZooKeeper is away, two nodes may answer the same client"
            )


def _ordered(order: Order, own_weight: int) -> str:
    weight = (
        f"ordered to have weight {order.weight}"
        if order.weight is not None
        else f"of its own weight {own_weight}"
    )
    return f"ordered to drain, {weight}" if order.drained else f"not ordered to drain, {weight}"


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
        raise MaglevError(
            f"another maglev0 serves {vip} on this host already ({_claimant(vip)}): stop it first"
        ) from error
    return claim


def _claim_name(vip: IPv4Address) -> str:
    return f"\0maglev0/{vip}"


def _claimant(vip: IPv4Address) -> str:
    """Who holds the claim, as the kernel knows it: any user may bind that name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(_claim_name(vip))
            pid, uid, _gid = struct.unpack(
                "3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            )
        except OSError:
            return "which is just ending"
    return f"pid {pid} of uid {uid}"
