"""What telemetry asks of a node, and where the daemon passes on what its VIPs report."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import NamedTuple, Protocol

from maglev0.coordination.session import SessionState
from maglev0.health.runner import CheckOutcome
from maglev0.protocol.handover import Phase
from maglev0.protocol.ports.readings import Counters
from maglev0.protocol.progress import ConnectionCount, Progress
from maglev0.telemetry.audit import Findings
from maglev0.telemetry.node_report import NodeReport
from maglev0.telemetry.notify import StateChange


class Snapshot(NamedTuple):
    """What one node knows of itself at one time.

    `report` is `None` where its kernel was not read back, `findings` where another member audits,
    `counters` where the kernel did not tell them.
    """

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
    """Where the daemon passes on what its VIPs report. No method waits for anything."""

    @property
    def listens(self) -> bool:
        """Whether anything reads what `seen` passes on."""

    def changed(self, event: StateChange) -> None:
        """A node's state changed."""

    def seen(self, vip: IPv4Address, snapshot: Snapshot) -> None:
        """A node looked at itself."""

    def took(self, vip: IPv4Address, phase: Phase, seconds: float) -> None:
        """A hand-over reached that phase so long after the node saw its view."""

    def failed(self, kind: str) -> None:
        """An error of that kind, one of `measures.ERRORS`."""

    def left(self, vip: IPv4Address) -> None:
        """The daemon no longer serves that VIP."""


class VipSink(NamedTuple):
    """A telemetry sink, and the VIP whose news it gets."""

    vip: IPv4Address
    sink: TelemetrySink


class ReportedNode(Protocol):
    """One node's part in the cluster, as far as it is reported."""

    @property
    def progress(self) -> Progress:
        """How far the node has come."""

    @property
    def before(self) -> dict[int, int]:
        """The weights, by member id, from which the former table was built."""

    @property
    def connections(self) -> ConnectionCount | None:
        """The latest count of connections; `None` while the number is unknown."""


class ReportedHealth(Protocol):
    """What is wrong with one node, as far as its health checks and its order tell."""

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for each health check that is down, and for an order that cannot be read."""

    @property
    def results(self) -> tuple[CheckOutcome, ...]:
        """The last outcome of each health check that has run."""


class ReportedKernel(Protocol):
    """What is read from one node's kernel for people. A failure is no host fault."""

    able: bool
    restored: int

    @property
    def reason(self) -> str:
        """Why this node cannot serve; empty where it can."""

    @property
    def early_drop(self) -> str:
        """See `Statistics.early_drop`."""

    async def read_back(self) -> frozenset[int]:
        """The buckets in force. Raises DataplaneError."""

    async def counters(self) -> Counters | None:
        """See `Statistics.counters`. Raises DataplaneError."""

    def distrust(self) -> None:
        """Have everything compared with the kernel and repaired."""
