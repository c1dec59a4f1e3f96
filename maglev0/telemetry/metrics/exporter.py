"""Serves metrics to Prometheus with prometheus_client, which no other module imports.

The loop publishes what it knows as frozen values. A scrape reads them in its own thread, and waits
for nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import urlsplit

import prometheus_client
from prometheus_client import CollectorRegistry, Histogram, MetricsHandler, ProcessCollector
from prometheus_client import Counter as Total
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from maglev0 import __version__
from maglev0.core.assignment import Assignment
from maglev0.errors import MaglevError
from maglev0.telemetry import observer
from maglev0.telemetry.metrics import measures
from maglev0.telemetry.metrics.http_server import HttpServer
from maglev0.telemetry.metrics.measures import ERRORS, PHASES, CheckResult, Family, Measures
from maglev0.telemetry.ports import Snapshot

PATH = "/metrics"
# From a hand-over whose buckets were staged before (milliseconds) to a crash (a session timeout);
# 10 and 50 ms are the bounds that the manual gives (performance).
HANDOVER_BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REQUEST_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

_CONNTRACK = Path("/proc/sys/net/netfilter")  # of the network namespace of the calling thread


class Exporter:
    """What the daemon tells Prometheus.

    Methods other than `start` and `stop` only record, also while it is stopped.
    """

    def __init__(self) -> None:
        # Nothing uses the timestamp that the library adds to each histogram and counter.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._measures: dict[IPv4Address, Measures] = {}
        self._shares: dict[IPv4Address, tuple[Assignment, int]] = {}
        registry = CollectorRegistry()
        registry.register(_Published(self._measures))
        ProcessCollector(registry=registry)
        self._handovers = Histogram(
            "maglev0_handover_seconds",
            "From a new view until this node has reached a phase of the hand-over to it.",
            ("vip", "phase"),
            buckets=HANDOVER_BUCKETS_S,
            registry=registry,
        )
        self._requests = Histogram(
            "maglev0_zookeeper_request_seconds",
            "How long ZooKeeper took to answer a request.",
            buckets=REQUEST_BUCKETS_S,
            registry=registry,
        )
        self._errors = Total(
            "maglev0_errors", "Errors, by what caused them.", ("kind",), registry=registry
        )
        for kind in ERRORS:
            self._errors.labels(kind)  # Prometheus sees a first error only if it saw a zero before
        self._registry = registry
        self._server: HttpServer | None = None

    def start(self, address: str, port: int) -> None:
        """Serve on that address, in a thread.

        Raises MaglevError, with nothing changed, where that is impossible.
        """
        try:
            server = HttpServer(address, port, _MetricsHandler.factory(self._registry))
        except OSError as error:
            where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            raise MaglevError(
                f"serving metrics on {where}: {(error.strerror or str(error)).lower()};"
                " name another address with --metrics"
            ) from error
        self.stop()
        self._server = server
        server.begin()

    def stop(self) -> None:
        """Stop serving; what was recorded is kept for the next `start`."""
        if self._server is not None:
            self._server.end()
        self._server = None

    @property
    def port(self) -> int | None:
        """The port that is served; the kernel chose it where `start` got 0."""
        return None if self._server is None else int(self._server.server_address[1])

    def publish(self, vip: IPv4Address, snapshot: Snapshot) -> None:
        """Record how one VIP stands now."""
        self._measures[vip] = self._measured(vip, snapshot)
        for phase in PHASES:
            self._handovers.labels(str(vip), phase)

    def remove(self, vip: IPv4Address) -> None:
        """Remove all metrics of a VIP that is not served any more."""
        self._measures.pop(vip, None)
        self._shares.pop(vip, None)
        for phase in PHASES:
            with suppress(KeyError):
                self._handovers.remove(str(vip), phase)

    def took(self, vip: IPv4Address, phase: str, seconds: float) -> None:
        """A hand-over came to this step, one of `PHASES`, so long after its view was seen."""
        self._handovers.labels(str(vip), phase).observe(seconds)

    def answered(self, seconds: float) -> None:
        """Record how long ZooKeeper took to answer a request."""
        self._requests.observe(seconds)

    def failed(self, kind: str) -> None:
        """Count an error of this kind, one of `ERRORS`."""
        self._errors.labels(kind).inc()

    def _measured(self, vip: IPv4Address, snapshot: Snapshot) -> Measures:
        progress, report, findings = snapshot.progress, snapshot.report, snapshot.findings
        former = self._measures.get(vip)
        view = progress.view
        return Measures(
            at_s=time.monotonic(),
            member_id=progress.me.id,
            version=__version__,
            dataplane=progress.me.dataplane.value,
            # The former value where the kernel was not read: another value begins a time series.
            xdp=report.xdp if report is not None else former.xdp if former is not None else "",
            members=Counter(() if view is None else (member.state for member in view.members)),
            owned=len(progress.held) if report is None else report.held,
            share=self._share(vip, progress.ownership, progress.me.name),
            total=snapshot.total_nodes,
            overlaps=None if findings is None else len(findings.overlaps),
            holes=None if findings is None else len(findings.holes),
            silent=None if findings is None else len(findings.unknown),
            view_number=None if view is None else observer.view_number(view),
            view_age_s=max(0.0, time.monotonic() - progress.view_at),
            lease_left_s=max(0.0, progress.lease_left_s),
            lease_s=snapshot.lease_s,
            zookeeper=snapshot.zookeeper.value,
            session_timeout_s=snapshot.session_timeout_s,
            able=snapshot.able,
            healthy=all(result.up for result in snapshot.results),
            checks=tuple(
                CheckResult(str(result.check), result.up, result.duration_s)
                for result in snapshot.results
            ),
            counters=snapshot.counters,
            flows=None if report is None else report.flows,
            kept=progress.kept,
            conntrack=conntrack_entries(),
            restored=snapshot.restored,
        )

    def _share(self, vip: IPv4Address, ownership: Assignment | None, name: str) -> int | None:
        """Return how many buckets the table gives this node; counted once for each table."""
        if ownership is None:
            return None
        known = self._shares.get(vip)
        if known is None or known[0] is not ownership:
            known = self._shares[vip] = ownership, ownership.table.count(name)
        return known[1]


def conntrack_entries() -> tuple[int, int] | None:
    """How many entries the conntrack table of this network namespace has, and its limit.

    `None` where the kernel has no such table.
    """
    try:
        held, limit = (
            int((_CONNTRACK / name).read_text())
            for name in ("nf_conntrack_count", "nf_conntrack_max")
        )
    except (OSError, ValueError):
        return None
    return held, limit


class _Published(Collector):
    """Gives the registry what was published last."""

    def __init__(self, published: dict[IPv4Address, Measures]) -> None:
        self._published = published

    def collect(self) -> Iterator[Metric]:
        # A copy: the loop publishes meanwhile.
        return map(_metric, measures.families(dict(self._published), time.monotonic()))


def _metric(family: Family) -> Metric:
    if family.kind == "info":
        info = InfoMetricFamily(family.name, family.meaning)
        for values, _one in family.samples:
            info.add_metric((), dict(zip(family.labels, values, strict=True)))
        return info
    made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = made(family.name, family.meaning, labels=family.labels)
    for values, value in family.samples:
        metric.add_metric(values, value)
    return metric


class _MetricsHandler(MetricsHandler):
    """Answers GET of one path, and nothing else."""

    def do_GET(self) -> None:  # noqa: N802  the library's name
        """Answer with all metrics."""
        if urlsplit(self.path).path == PATH:
            super().do_GET()
        else:
            self.send_error(HTTPStatus.NOT_FOUND, f"there is only {PATH}")

    def version_string(self) -> str:
        """Name the program and not the version of Python."""
        return "maglev0"
