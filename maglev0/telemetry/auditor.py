"""Compares what all kernels hold, on the first member for all.

If every member did so, they would read the square of the cluster's size.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import NamedTuple

from maglev0.coordination.session import Session
from maglev0.core.view import DRY_RUN, View
from maglev0.protocol.paths import Paths
from maglev0.protocol.progress import Progress
from maglev0.runtime.waiting import in_thread
from maglev0.telemetry import node_report, observer
from maglev0.telemetry.audit import Alarms, Findings
from maglev0.telemetry.node_report import NodeReport

log = logging.getLogger(__name__)

# Between two audits, as a multiple of the duration of one: a hundredth of a core.
AUDIT_COST = 100


class _Expected(NamedTuple):
    """What all members own by one table, and the digests of that."""

    view: View
    shares: Mapping[int, frozenset[int]]
    digests: Mapping[int, str]


class Auditor:
    """Audits a cluster with `total_nodes` buckets; a fault is an alarm after `patience_s`.

    `findings` are those of the last audit, `None` while another member audits or ZooKeeper is away.
    """

    def __init__(self, session: Session, paths: Paths, total_nodes: int, patience_s: float) -> None:
        self.findings: Findings | None = None
        self._session = session
        self._paths = paths
        self._total_nodes = total_nodes
        self._expected: _Expected | None = None
        self._due_s = 0.0
        self._alarms = Alarms(patience_s)

    def suspend(self) -> None:
        """Note that ZooKeeper cannot be read: what was found may have changed."""
        self.findings = None

    async def audit(self, progress: Progress) -> bool:
        """Audit if this node is the first member and an audit is due. Raises `Disconnected`.

        Returns whether an alarm began or ended.
        """
        view, ownership = progress.view, progress.ownership
        if view is None or ownership is None or progress.me.id != _first(view):
            self._expected = self.findings = None
            return False
        if self._expected is None or self._expected.view != view:
            self.findings = None
            self._expected = await in_thread(
                lambda: _expect(view, ownership.table, self._total_nodes)
            )
        start_s = time.monotonic()
        if self.findings is not None and start_s < self._due_s:
            return False
        reports = await observer.read_reports(self._session, self._paths, self._expected.shares)
        self.findings = await self._compare(self._expected, reports)
        self._due_s = time.monotonic() + AUDIT_COST * (time.monotonic() - start_s)
        news = self._alarms.note(self.findings, time.monotonic())
        for text, begins in news:
            log.log(logging.ERROR if begins else logging.INFO, "%s", text)
        return bool(news)

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


def _first(view: View) -> int | None:
    """The first member whose kernel carries ownership out."""
    return next((member.id for member in view.members if member.state != DRY_RUN), None)


def _expect(view: View, owners: tuple[str, ...], total_nodes: int) -> _Expected:
    shares = observer.shares_in_kernels(view, owners)
    return _Expected(
        view,
        shares,
        {member: node_report.digest(total_nodes, share) for member, share in shares.items()},
    )
