"""Tells people what one VIP's part does: its report in ZooKeeper, the audit of all kernels, and what the daemon hands on to metrics and notices.

Nothing that decides who owns what depends on it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from typing import NamedTuple, Protocol

from maglev0 import __version__
from maglev0.coordination.session import Session, SessionState
from maglev0.core.view import ACTIVE, DRY_RUN, FAILING, View, ViewId
from maglev0.errors import DataplaneError
from maglev0.health.runner import CheckOutcome
from maglev0.protocol.handover import Phase
from maglev0.protocol.lease import terms
from maglev0.protocol.ports.readings import Connections, Counters
from maglev0.protocol.ports.zookeeper import Disconnected
from maglev0.protocol.progress import ClusterContext, Progress
from maglev0.runtime.waiting import in_thread, together, woken
from maglev0.telemetry import node_report, observer
from maglev0.telemetry.audit import Alarms, Findings
from maglev0.telemetry.node_report import MAX_REASONS, NodeReport
from maglev0.telemetry.notify import StateChange
from maglev0.telemetry.own_znodes import OwnZnodes

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between two readings of the kernel, where they are cheap
LOOK_COST = 300  # and at least so many times as long as one takes: a third of a percent of a core
AUDIT_COST = 100  # between two audits, as the multiple of how long one takes: a hundredth of a core, where there are many members
TELL_S = 3.0  # between two reports that say the same
COUNT_S = 15.0  # between two counts of connections, for which the kernel walks through a table of its whole host
LEAVE_TIMEOUT_S = 0.5
LEFT = "left"  # the state of a part that is over
_MOST_REASON = 255
_FAULTS = {
    "host-fault": "kernel",
    FAILING: "check",
    "lease-expired": "zookeeper",
}  # states that an error leads to, and its kind


class Snapshot(NamedTuple):
    """What one part knows of itself at one time; `read` is `None` where its kernel was not read back, `findings` where another member audits."""

    progress: Progress
    report: NodeReport | None
    findings: Findings | None
    results: tuple[CheckOutcome, ...]
    counters: Counters | None
    able: bool
    zookeeper: SessionState
    session_timeout_s: float
    lease_s: float
    total_nodes: int
    restored: int


class TelemetrySink(Protocol):
    """Where the daemon hands on what its parts tell. No method waits for anything."""

    @property
    def listens(self) -> bool:
        """Whether anybody asks for what `seen` tells."""

    def changed(self, event: StateChange) -> None:
        """A part's state changed."""

    def seen(self, vip: IPv4Address, snapshot: Snapshot) -> None:
        """A part looked at itself."""

    def took(self, vip: IPv4Address, phase: Phase, seconds: float) -> None:
        """A hand-over came so far so long after its view was seen."""

    def failed(self, kind: str) -> None:
        """An error of that kind, one of `measures.ERRORS`."""

    def left(self, vip: IPv4Address) -> None:
        """A part ended."""


class ReportedNode(Protocol):
    """One node's part in the cluster, as far as it is reported."""

    @property
    def progress(self) -> Progress:
        """How far the node has come."""

    @property
    def before(self) -> dict[int, int]:
        """The weights by member id that the former table was built from."""

    @property
    def alive(self) -> int | None:
        """The connections counted while some are kept in buckets that moved."""


class ReportedKernel(Protocol):
    """What is read of one node's kernel for its report."""

    able: bool
    restored: int

    @property
    def reason(self) -> str:
        """Why this node cannot serve; empty where it can."""

    @property
    def early_drop(self) -> str:
        """See `Statistics.early_drop`."""

    async def owned(self) -> frozenset[int]:
        """See `Readings.owned`."""

    async def connections(self) -> Connections:
        """See `Readings.connections`."""

    async def counters(self) -> Counters | None:
        """See `Statistics.counters`."""

    def distrust(self) -> None:
        """Have everything compared with the kernel and repaired."""


class ReportedHealth(Protocol):
    """What is wrong with one node, as far as its health checks and its order tell."""

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for each health check that is down, and for an order that cannot be read."""

    @property
    def results(self) -> tuple[CheckOutcome, ...]:
        """The last outcome of each health check that has run."""


class VipSink(NamedTuple):
    """The sink, and the VIP that a part's events belong to."""

    vip: IPv4Address
    sink: TelemetrySink


class _Expected(NamedTuple):
    """What all members own by one table, and the digests of that."""

    view: View
    shares: Mapping[int, frozenset[int]]
    digests: Mapping[int, str]


class Reporter:
    """One VIP's teller. `run` for ever, `look` whenever something may have changed; `checks` are those of this node's health."""

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
        self.state = "joining"
        self._vip, self._sink = sink
        self._session = session
        self._znodes = OwnZnodes(session)
        self._kernel = kernel
        self._node = node
        self._paths = cluster.paths
        self._total_nodes = cluster.settings.total_nodes
        self._terms = terms(cluster.settings.lease_ms)
        self._due = asyncio.Event()
        self._stage: tuple[ViewId | None, Phase] = (None, Phase.SEEN)
        self._read: tuple[frozenset[int], str] = (
            frozenset(),
            node_report.digest(self._total_nodes, ()),
        )
        self._told: tuple[int, NodeReport] | None = (
            None  # the last report, with the session that wrote it and what is held
        )
        self._flows: int | None = None
        self._expected: _Expected | None = None
        self._audit_due_s = 0.0
        self._alarms = Alarms(
            self._terms.over_s + 2 * LOOK_S
        )  # longer than a hand-over, of which the reports tell late
        self._findings: Findings | None = None
        self._said_failing = False

    @property
    def words(self) -> str:
        """What this part does, for people."""
        progress = self._node.progress
        held, total = len(progress.held), self._total_nodes
        if progress.view is None:
            return f"{self.state}: {held} of {total} node numbers"
        return f"{self.state}: {held} of {total} node numbers, {len(progress.view.members)} members, view {observer.view_number(progress.view)}"

    def look(self) -> None:
        """See whether this part's state changed, and how far a hand-over has come."""
        progress = self._node.progress
        self._time_handover(progress)
        self._become(_state(progress, self.state, able=self._kernel.able), progress)

    def end(self) -> None:
        """Tell that its part is over."""
        self._become(LEFT, self._node.progress)

    def _become(self, state: str, progress: Progress) -> None:
        if state != self.state:
            former, self.state = self.state, state
            if state in _FAULTS:
                self._sink.failed(_FAULTS[state])
            self._sink.changed(
                StateChange(self._vip, progress.me.id, state, former, self._reason(), time.time())
            )
            self._due.set()

    def _tell_failing(self, view: View | None) -> None:
        """Tell once that nobody is healthy any more."""
        fails = view is not None and view.fails_altogether
        if fails and not self._said_failing:
            log.warning(
                "every member fails its checks: all keep their node numbers, for a bad answer is better than none"
            )
        self._said_failing = fails

    def _time_handover(self, progress: Progress) -> None:
        seen = None if progress.view is None else progress.view.id
        before, self._stage = self._stage, (seen, progress.stage)
        if seen != before[0]:
            self._tell_failing(progress.view)
        if self._stage == before or seen is None:
            return
        for stage in Phase:
            if (
                stage > Phase.SEEN
                and stage <= progress.stage
                and (seen != before[0] or stage > before[1])
            ):
                self._sink.took(self._vip, stage, time.monotonic() - progress.view_at)
        if progress.stage is Phase.ACQUIRED:
            self._due.set()

    def _reason(self) -> str:
        return (self._kernel.reason if not self._kernel.able else "; ".join(self.checks.problems))[
            :_MOST_REASON
        ]

    async def run(self) -> None:
        """Report and audit, for ever."""
        await together(self._reports(), self._counts())

    async def withdraw(self) -> None:
        """Take back what was told to the cluster, if ZooKeeper answers at once."""
        me = self._node.progress.me.id
        with suppress(Disconnected, TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                for path in (self._paths.report(me), self._paths.holding(me)):
                    await self._znodes.remove(path)

    async def _reports(self) -> None:
        while True:
            self._due.clear()
            pause_s = await self._report()
            await woken(self._due, pause_s)
            await asyncio.sleep(0)

    async def _report(self) -> float:
        """Look once at everything there is to tell; returns after how many seconds to look again."""
        start_s = time.monotonic()
        progress = self._node.progress
        report, counters = None, None
        with suppress(DataplaneError):
            if progress.is_at_rest and self._kernel.able:
                report = await self._read_back(progress)
            if self._sink.listens:
                counters = await self._kernel.counters()
        cost_s = time.monotonic() - start_s
        answered = await self._published(progress, report)
        if self._sink.listens:
            self._sink.seen(self._vip, self._snapshot(progress, report, counters))
        # What others read of this node must not be worse than it is for longer than they bear with.
        is_news_due = not answered or report is None or report.lease_left_s <= 0
        return LOOK_S if is_news_due else max(LOOK_S, LOOK_COST * cost_s)

    async def _published(self, progress: Progress, report: NodeReport | None) -> bool:
        """Tell the cluster, and audit it if that is this node's part; whether ZooKeeper answered."""
        with suppress(Disconnected):
            if report is not None and self._session.state is SessionState.CONNECTED:
                await self._tell(progress.me.id, report)
                await self._audit(progress)
                return True
        self._findings = None
        return False

    def _snapshot(
        self, progress: Progress, report: NodeReport | None, counters: Counters | None
    ) -> Snapshot:
        return Snapshot(
            progress,
            report,
            self._findings,
            self.checks.results,
            counters,
            self._kernel.able,
            self._session.state,
            self._session.timeout_s,
            self._terms.length_s,
            self._total_nodes,
            self._kernel.restored,
        )

    async def _read_back(self, progress: Progress) -> NodeReport:
        held = await self._kernel.owned()
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
                "the kernel has %d node numbers in force that are not this node's, and lacks %d",
                len(held - now.held),
                len(now.held - held),
            )
            self._kernel.distrust()
        reasons = (*((self._kernel.reason,) if self._kernel.reason else ()), *self.checks.problems)
        return NodeReport(
            read_at=time.time(),
            view=now.obeys,
            view_at=time.time() - (time.monotonic() - now.view_at),
            held=len(held),
            digest=self._read[1],
            lease_left_s=max(0.0, now.lease_left_s),
            kept=now.kept,
            flows=self._node.alive if now.kept else self._flows,
            able=self._kernel.able,
            problems=tuple(reason[:_MOST_REASON] for reason in reasons[:MAX_REASONS]),
            xdp=self._kernel.early_drop,
            version=__version__,
            before=self._node.before,
        )

    async def _tell(self, me: int, report: NodeReport) -> None:
        """Write what is news; others' sight of this node is worth two small writes now and then."""
        session = self._session.session
        told = self._told[1] if self._told is not None and self._told[0] == session else None
        if told is None or told.digest != report.digest:
            data = node_report.pack(self._total_nodes, self._read[0])
            if not await self._znodes.put(self._paths.holding(me), data):
                return
        if (
            told is None
            or report.is_news_after(told)
            or not 0 <= report.read_at - told.read_at < TELL_S
        ) and await self._znodes.put(self._paths.report(me), report.encode()):
            self._told = session, report

    async def _audit(self, progress: Progress) -> None:
        """The first member compares what all kernels hold, for all: everyone doing so would read the square of the cluster's size."""
        view, ownership = progress.view, progress.ownership
        if view is None or ownership is None or not self._is_first(view):
            self._expected = self._findings = None
            return
        if self._expected is None or self._expected.view != view:
            self._findings = None
            self._expected = await in_thread(
                lambda: _expect(view, ownership.table, self._total_nodes)
            )
        start_s = time.monotonic()
        if self._findings is not None and start_s < self._audit_due_s:
            return
        reports = await observer.read_reports(self._session, self._paths, self._expected.shares)
        self._findings = await self._compare(self._expected, reports)
        self._audit_due_s = time.monotonic() + AUDIT_COST * (time.monotonic() - start_s)
        for words, begins in self._alarms.note(self._findings, time.monotonic()):
            log.log(logging.ERROR if begins else logging.INFO, "%s", words)
            self._due.set()

    def _is_first(self, view: View) -> bool:
        return self._node.progress.me.id == next(
            (member.id for member in view.members if member.state != DRY_RUN), None
        )

    async def _compare(self, expected: _Expected, reports: Mapping[int, NodeReport]) -> Findings:
        differing = [
            member
            for member, report in reports.items()
            if report.digest != expected.digests[member]
        ]
        if not differing and all(report.lease_left_s > 0 for report in reports.values()):
            return Findings(
                unknown=tuple(member for member in expected.shares if member not in reports)
            )
        held = await observer.read_held(self._session, self._paths, differing)
        return await in_thread(
            lambda: observer.compare(self._total_nodes, expected.shares, reports, held)
        )

    async def _counts(self) -> None:
        """Count connections, as often as that is cheap."""
        while True:
            start_s = time.monotonic()
            with suppress(DataplaneError):
                self._flows = (await self._kernel.connections()).alive
            await asyncio.sleep(max(COUNT_S, LOOK_COST * (time.monotonic() - start_s)))


def _expect(view: View, owners: tuple[str, ...], total_nodes: int) -> _Expected:
    shares = observer.shares_in_kernels(view, owners)
    return _Expected(
        view,
        shares,
        {member: node_report.digest(total_nodes, share) for member, share in shares.items()},
    )


def _state(progress: Progress, former: str, *, able: bool) -> str:
    """One word for what a node is to its cluster."""
    if not able:
        return "host-fault"
    if not progress.is_member:
        return "joining"
    if progress.me.state != ACTIVE:
        return progress.me.state
    if progress.held:
        return "lease-expired" if progress.lease_left_s <= 0 else ACTIVE
    return "idle" if progress.stage is Phase.ACQUIRED else former
