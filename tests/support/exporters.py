"""A snapshot that an exporter can publish, and how to scrape it."""

from __future__ import annotations

import time
from http.client import HTTPConnection
from ipaddress import IPv4Address
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from maglev0.config.health_checks import parse_check
from maglev0.coordination.session import SessionState
from maglev0.core.assignment import Assignment
from maglev0.core.service import HashFamily
from maglev0.core.view import ACTIVE, Member, View, ViewId
from maglev0.health.runner import CheckOutcome
from maglev0.protocol.handover import Phase
from maglev0.protocol.ports.readings import Count, Counters
from maglev0.protocol.progress import Progress
from maglev0.telemetry.audit import Findings
from maglev0.telemetry.metrics.exporter import Exporter
from maglev0.telemetry.node_report import NodeReport
from maglev0.telemetry.ports import Snapshot
from tests.support.patience import PATIENCE_S

VIP, OTHER = IPv4Address("198.51.100.1"), IPv4Address("198.51.100.2")


def member(number: int) -> Member:
    return Member(
        number,
        f"s{number}",
        100 + number,
        0.0,
        "198.18.0.1",
        "",
        HashFamily.NFTABLES,
        1,
        ACTIVE,
        2.0,
    )


ME = member(2)
VIEW = View(ViewId(1, 3, 4), (member(1), ME, member(3)))
OWNERSHIP = Assignment((1, 2, 3), ("backend-1", "backend-2", "backend-3", "backend-2", "backend-1"))
REPORT = NodeReport(0.0, VIEW.id, 0.0, 2, "", 1.0, 0, 12, VIEW.id, 1.0, True, (), "native", "1", {})
EVERY_COUNTER = Counters(
    *(Count(number, 60 * number) for number in range(1, len(Counters._fields) + 1))
)


def snapshot(**changes: Any) -> Snapshot:
    """A node that serves and audits."""
    progress = Progress(
        ME,
        True,
        VIEW,
        time.monotonic(),
        VIEW.id,
        Phase.ACQUIRED,
        frozenset({2, 4}),
        1.0,
        0,
        OWNERSHIP,
    )
    results = (CheckOutcome(parse_check("tcp:80"), up=True, duration_s=0.001, reason=""),)
    well = Snapshot(
        progress,
        REPORT,
        Findings(),
        results,
        EVERY_COUNTER,
        True,
        SessionState.CONNECTED,
        2.0,
        1.33,
        5,
        0,
    )
    return well._replace(**changes)


def port_of(exporter: Exporter) -> int:
    assert exporter.port is not None
    return exporter.port


def ask(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def scraped(exporter: Exporter) -> dict[str, float]:
    """All samples that a scrape gives, by name and labels in their order."""
    status, text = ask(port_of(exporter))
    assert status == 200
    samples = [
        sample for family in text_string_to_metric_families(text) for sample in family.samples
    ]
    return {
        " ".join(
            (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))
        ): sample.value
        for sample in samples
    }


def named(found: dict[str, float], word: str) -> set[str]:
    return {name for name in found if word in name}
