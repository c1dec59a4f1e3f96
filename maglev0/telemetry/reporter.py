"""Reports on one VIP's node: reads its kernel back, and passes the result to the cluster and sink.

Nothing that decides about ownership depends on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from maglev0 import __version__
from maglev0.coordination.session import Session, SessionState
from maglev0.core.view import DRY_RUN
from maglev0.errors import DataplaneError
from maglev0.protocol.lease import terms
from maglev0.protocol.ports.readings import Counters
from maglev0.protocol.ports.zookeeper import Disconnected
from maglev0.protocol.progress import ClusterContext, Progress
from maglev0.protocol.states import ReportedState
from maglev0.runtime.waiting import woken
from maglev0.telemetry import node_report, observer
from maglev0.telemetry.auditor import Auditor
from maglev0.telemetry.node_report import MAX_PAUSE_S, MAX_REASONS, NodeReport
from maglev0.telemetry.node_status import NodeStatus
from maglev0.telemetry.ports import ReportedHealth, ReportedKernel, ReportedNode, Snapshot, VipSink
from maglev0.telemetry.publisher import Publisher

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between two readings of the kernel, where they are cheap
# And at least so many times as long as one takes: a third of a percent of a core. A report
# announces the pause, for observers call a node hung by its own pace (`NodeReport.is_stale`).
LOOK_COST = 300
_MOST_REASON = 255


class Reporter:
    """Reports on one node. `run` it for ever, and `look` whenever something may have changed.

    `checks` says what is wrong with the node.
    """

    def __init__(
        self,
        session: Session,
        kernel: ReportedKernel,
        node: ReportedNode,
        *,
        cluster: ClusterContext,
        sink: VipSink,
        checks: ReportedHealth,
    ) -> None:
        self.checks = checks
        self._vip, self._sink = sink
        self._session = session
        self._kernel = kernel
        self._node = node
        self._total_nodes = total_nodes = cluster.settings.total_nodes
        self._terms = terms(cluster.settings.lease_ms)
        self._due = asyncio.Event()
        self._status = NodeStatus(node, kernel, sink, self._reason, self._due.set)
        self._publisher = Publisher(session, cluster.paths, node.progress.me.id, total_nodes)
        # Reports tell of a hand-over late, so the patience is longer than one.
        patience_s = self._terms.over_s + 2 * LOOK_S
        self._auditor = Auditor(session, cluster.paths, total_nodes, patience_s)
        self._read: tuple[frozenset[int], str] = (
            frozenset(),
            node_report.digest(total_nodes, ()),
        )
        self._read_error = ""  # why the kernel cannot be read back, as logged
        self._pause_s = LOOK_S

    @property
    def state(self) -> ReportedState:
        """The state of the node, as it is reported."""
        return self._status.state

    @property
    def words(self) -> str:
        """What the node does, for people."""
        progress = self._node.progress
        text = f"{self.state}: {len(progress.held)} of {self._total_nodes} buckets"
        if progress.view is None:
            return text
        members, number = len(progress.view.members), observer.view_number(progress.view)
        return f"{text}, {members} members, view {number}"

    def look(self) -> None:
        """See whether the node's state changed, and how far a hand-over has come."""
        self._status.look()

    def end(self) -> None:
        """Pass on that the node no longer serves the VIP."""
        self._status.end()

    async def run(self) -> None:
        """Report and audit, for ever."""
        while True:
            self._due.clear()
            pause_s = await self.report()
            await woken(self._due, pause_s)
            await asyncio.sleep(0)

    async def withdraw(self) -> None:
        """Delete what was published in ZooKeeper, if it answers at once."""
        await self._publisher.withdraw()

    async def report(self) -> float:
        """Report once; returns after how many seconds to report again."""
        start_s = time.monotonic()
        progress = self._node.progress
        held = await self._read_back() if progress.is_at_rest and self._kernel.able else None
        counters = await self._read_counters() if self._sink.listens else None
        pause_s = max(LOOK_S, LOOK_COST * (time.monotonic() - start_s))
        self._pause_s = min(pause_s, MAX_PAUSE_S)
        report = None if held is None else self._made(progress, held)
        answered = await self._published(progress, report)
        if self._sink.listens:
            self._sink.seen(self._vip, self._snapshot(progress, report, counters))
        # Others must not take this node for worse than it is any longer than necessary.
        is_news_due = not answered or report is None or report.lease_left_s <= 0
        return LOOK_S if is_news_due else self._pause_s

    async def _read_back(self) -> frozenset[int] | None:
        """Return the buckets in force; `None` where the kernel does not tell them."""
        try:
            held = await self._kernel.read_back()
        except DataplaneError as error:
            if str(error) != self._read_error:
                log.warning("not reported: the kernel cannot be read back: %s", error)
            self._read_error = str(error)
            return None
        self._read_error = ""
        return held

    async def _read_counters(self) -> Counters | None:
        try:
            return await self._kernel.counters()
        except DataplaneError as error:
            log.debug("packets not counted: %s", error)
            return None

    def _made(self, progress: Progress, held: frozenset[int]) -> NodeReport:
        now = self._node.progress
        if held != self._read[0]:
            self._read = held, node_report.digest(self._total_nodes, held)
        if (
            now.is_at_rest
            and now.held == progress.held
            and held != now.held
            and progress.me.state != DRY_RUN
        ):
            log.warning(
                "kernel state differs from the assignment"
                " (%d extra buckets, %d missing): repairing",
                len(held - now.held),
                len(now.held - held),
            )
            self._kernel.distrust()
        count = self._node.connections
        reasons = (*((self._kernel.reason,) if self._kernel.reason else ()), *self.checks.problems)
        return NodeReport(
            read_at=time.time(),
            view=now.obeys,
            view_at=time.time() - (time.monotonic() - now.view_at),
            held=len(held),
            digest=self._read[1],
            lease_left_s=max(0.0, now.lease_left_s),
            kept=now.kept,
            flows=None if count is None else count.alive,
            counted_under=None if count is None else count.under,
            pause_s=self._pause_s,
            able=self._kernel.able,
            problems=tuple(reason[:_MOST_REASON] for reason in reasons[:MAX_REASONS]),
            xdp=self._kernel.early_drop,
            version=__version__,
            before=self._node.before,
        )

    async def _published(self, progress: Progress, report: NodeReport | None) -> bool:
        """Publish a report, and audit the cluster; return whether ZooKeeper answered."""
        with suppress(Disconnected):
            if report is not None and self._session.state is SessionState.CONNECTED:
                await self._publisher.publish(report, self._read[0])
                if await self._auditor.audit(progress):
                    self._due.set()
                return True
        self._auditor.suspend()
        return False

    def _snapshot(
        self, progress: Progress, report: NodeReport | None, counters: Counters | None
    ) -> Snapshot:
        return Snapshot(
            progress,
            report,
            self._auditor.findings,
            self.checks.results,
            counters,
            self._kernel.able,
            self._session.state,
            self._session.timeout_s,
            self._terms.length_s,
            self._total_nodes,
            self._kernel.restored,
        )

    def _reason(self) -> str:
        reason = self._kernel.reason if not self._kernel.able else "; ".join(self.checks.problems)
        return reason[:_MOST_REASON]
