"""One node with driver and reporter, a dry dataplane and a ZooKeeper that answers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import cast

from maglev0.config.health_checks import DEFAULT_TIMING, parse_timing
from maglev0.core import view as views
from maglev0.core.service import HashFamily, HashMode
from maglev0.core.settings import Settings
from maglev0.daemon.node_driver import NodeDriver
from maglev0.daemon.reconciler import Reconciler
from maglev0.dataplane.dry_run import DryRun
from maglev0.errors import DataplaneError
from maglev0.health.runner import CheckRunner
from maglev0.operator.orders.ordering import MemberLook
from maglev0.protocol.handover import Phase
from maglev0.protocol.ports.readings import Connections
from maglev0.protocol.progress import ClusterContext
from maglev0.telemetry import node_report
from maglev0.telemetry.node_report import NodeReport
from maglev0.telemetry.notify import StateChange
from maglev0.telemetry.ports import Snapshot, VipSink
from maglev0.telemetry.reporter import Reporter
from tests.support.lone_node import ME, PATHS
from tests.support.patience import PATIENCE_S
from tests.support.through import Through

BUCKETS = 16
SETTINGS = Settings(
    BUCKETS, HashMode.SOURCE_IP, 7, HashFamily.NFTABLES, "03:bf:c6:33:64:01", 20_000
)
VIP = IPv4Address("198.51.100.1")
LOOK_S = 0.005


class Kernel(DryRun):
    """A dry dataplane whose readings a test sets."""

    def __init__(self) -> None:
        super().__init__(HashFamily.NFTABLES)
        self.alive = 0
        self.is_readable = self.is_countable = True
        self.counts = 0
        self.pinned: frozenset[int] = frozenset()

    async def owned(self) -> frozenset[int]:
        if not self.is_readable:
            raise DataplaneError("reading buckets: out of memory")
        return await super().owned()

    async def connections(self) -> Connections:
        self.counts += 1
        if not self.is_countable:
            raise DataplaneError("reading connection tracking: out of memory")
        return Connections(self.pinned, self.alive)

    async def kept(self) -> frozenset[int]:
        return self.pinned


class Listener:
    """A `TelemetrySink` that remembers changes of the state."""

    listens = False

    def __init__(self) -> None:
        self.changes: list[StateChange] = []
        self.faults: list[str] = []

    def changed(self, event: StateChange) -> None:
        self.changes.append(event)

    def seen(self, vip: IPv4Address, snapshot: Snapshot) -> None:
        """Not asked for."""

    def took(self, vip: IPv4Address, phase: Phase, seconds: float) -> None:
        """Not asked for."""

    def failed(self, kind: str) -> None:
        self.faults.append(kind)

    def left(self, vip: IPv4Address) -> None:
        """Not asked for."""


class Rig:
    """The node `ME` in a cluster with member 2, its reporter and its kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.reconciler = Reconciler(kernel, lambda: None)
        self.cluster = Through(SETTINGS, self.reconciler, NodeDriver, 9)
        self.driver = self.cluster.node
        self.listener = Listener()
        checks = CheckRunner(VIP, (), parse_timing(DEFAULT_TIMING), lambda: None)
        self.reporter = Reporter(
            cast("object", self.cluster.zookeeper),  # type: ignore[arg-type]
            self.reconciler,
            self.driver,
            cluster=ClusterContext(PATHS, SETTINGS, "this", hold=False),
            sink=VipSink(VIP, self.listener),
            checks=checks,
        )
        self.driver.on_progress = self.reporter.look

    def report(self) -> NodeReport | None:
        """What the node has published."""
        node = self.cluster.zookeeper.tree.nodes.get(PATHS.report(ME.id))
        return None if node is None else node_report.decode(node.data)

    def look(self) -> MemberLook:
        """What an operator's command sees of the node."""
        record = self.cluster.zookeeper.tree.nodes.get(PATHS.member(ME.id))
        return MemberLook(
            None if record is None else views.decode(str(ME.id), record.data),
            self.report(),
            self.cluster.zookeeper.view,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  nothing sets an event
            await asyncio.sleep(LOOK_S)


def run(test: Callable[[Rig], Awaitable[None]], kernel: Kernel | None = None) -> None:
    """Run a test beside a node that has its share."""

    async def whole() -> None:
        rig = Rig(kernel or Kernel())
        await rig.cluster.found((2,))
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(rig.driver.follow()),
                group.create_task(rig.reporter.run()),
            ]
            await rig.until(lambda: rig.driver.progress.is_settled)
            await test(rig)
            for task in tasks:
                task.cancel()

    asyncio.run(whole())
