"""Writes what one node publishes of itself into ZooKeeper."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from maglev0.coordination.session import Session
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import Disconnected
from maglev0.telemetry import node_report
from maglev0.telemetry.node_report import NodeReport
from maglev0.telemetry.own_znodes import OwnZnodes

REPORT_S = 3.0  # between two reports that say the same
LEAVE_TIMEOUT_S = 0.5


class Publisher:
    """Publishes the reports of the member with id `me`, and the buckets that its kernel holds."""

    def __init__(self, session: Session, paths: Paths, me: int, total_nodes: int) -> None:
        self._session = session
        self._znodes = OwnZnodes(session)
        self._paths = paths
        self._me = me
        self._total_nodes = total_nodes
        self._published: tuple[int, NodeReport] | None = None  # the session that wrote it, and what

    async def publish(self, report: NodeReport, held: frozenset[int]) -> None:
        """Write a report if it is news, or the former one is old or will be before the next.

        Raises `Disconnected`.
        """
        session, former = self._session.session, None
        if self._published is not None and self._published[0] == session:
            former = self._published[1]
        if former is None or former.digest != report.digest:
            data = node_report.pack(self._total_nodes, held)
            if not await self._znodes.put(self._paths.holding(self._me), data):
                return
        if (
            former is None
            or report.is_news_after(former)
            or not 0 <= report.read_at - former.read_at < REPORT_S
            or former.is_stale(report.read_at + report.pause_s)
        ) and await self._znodes.put(self._paths.report(self._me), report.encode()):
            self._published = session, report

    async def withdraw(self) -> None:
        """Delete what was published, if ZooKeeper answers at once."""
        with suppress(Disconnected, TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                for path in (self._paths.report(self._me), self._paths.holding(self._me)):
                    await self._znodes.remove(path)
