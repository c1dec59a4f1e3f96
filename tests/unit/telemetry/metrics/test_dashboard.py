"""What a real Prometheus shows of a daemon on the dashboard."""

from __future__ import annotations

import json
import re
import socket
from ipaddress import IPv4Address
from pathlib import Path

from maglev0.telemetry.metrics.exporter import Exporter, conntrack_entries
from maglev0.telemetry.metrics.measures import PHASES
from tests.support.exporters import port_of, snapshot
from tests.support.prometheus import SHIPPED, Prometheus

VIP, OTHER = IPv4Address("198.51.100.1"), IPv4Address("198.51.100.2")


def expressions() -> list[tuple[str, str]]:
    """The title of each panel and its queries, as Grafana sends them for all nodes of a VIP."""
    panels = json.loads((SHIPPED / "dashboard.json").read_text())["panels"]
    queries = [
        (panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])
    ]
    filled = {"$vip": str(VIP), "$instance": ".*", "$__rate_interval": "4s"}
    return [
        (title, re.sub(r"\$\w+", lambda found: filled[found[0]], query)) for title, query in queries
    ]


def test_every_panel_of_the_dashboard_shows_something(exporter: Exporter, tmp_path: Path) -> None:
    port = free_port()
    with Prometheus(tmp_path, [f"127.0.0.1:{port_of(exporter)}"], port) as prometheus:
        exporter.publish(VIP, snapshot())
        prometheus.wait(
            lambda: prometheus.value("count_over_time(maglev0_able[1m])") is not None,
            "a first scrape",
        )
        exporter.publish(VIP, snapshot())
        for phase in PHASES:
            exporter.took(VIP, phase, 0.01)
        exporter.answered(0.001)
        prometheus.wait(
            lambda: (prometheus.value("count_over_time(maglev0_able[1m])") or 0) >= 4,
            "further scrapes",
        )
        empty = [(title, query) for title, query in expressions() if not prometheus.query(query)]
        assert empty == [
            ("Connection tracking", query) for title, query in empty if conntrack_entries() is None
        ]
        rules = prometheus.get("rules")["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} == {"ok"}
        assert prometheus.query('up{job="maglev0"} == 1')


def test_the_dashboard_is_laid_out_without_overlap() -> None:
    dashboard = json.loads((SHIPPED / "dashboard.json").read_text())
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _y in cells) == 23
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert all(panel["description"] for panel in dashboard["panels"] if panel["type"] != "row")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])
