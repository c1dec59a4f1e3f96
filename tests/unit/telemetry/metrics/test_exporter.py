"""What Prometheus gets from a daemon, and what a real Prometheus shows of it on the dashboard."""

from __future__ import annotations

import gc
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from maglev0.config.health_checks import parse_check
from maglev0.coordination.session import SessionState
from maglev0.core.assignment import Assignment
from maglev0.core.service import HashFamily
from maglev0.core.view import ACTIVE, Member, View, ViewId
from maglev0.errors import MaglevError
from maglev0.health.runner import CheckOutcome
from maglev0.protocol.handover import Phase
from maglev0.protocol.ports.readings import Count, Counters
from maglev0.protocol.progress import Progress
from maglev0.telemetry.audit import Findings
from maglev0.telemetry.metrics import http_server
from maglev0.telemetry.metrics.exporter import Exporter, conntrack_entries
from maglev0.telemetry.metrics.measures import ERRORS, PHASES
from maglev0.telemetry.node_report import NodeReport
from maglev0.telemetry.ports import Snapshot
from tests.project.conftest import run
from tests.support.patience import PATIENCE_S
from tests.support.prometheus import SHIPPED, Prometheus, program

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


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    made = Exporter()
    made.start("127.0.0.1", 0)
    yield made
    made.stop()


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


# What a scrape gives.


def test_a_scrape_gives_what_was_published_last(exporter: Exporter) -> None:
    exporter.publish(VIP, snapshot())
    before = scraped(exporter)
    assert before["maglev0_buckets_owned vip=198.51.100.1"] == 2
    assert before["maglev0_buckets_share vip=198.51.100.1"] == 2
    assert before["maglev0_members state=active vip=198.51.100.1"] == 3
    assert before["maglev0_view_number vip=198.51.100.1"] == 7
    assert before["maglev0_check_up check=tcp:80 vip=198.51.100.1"] == 1
    assert (
        before["maglev0_packets_total kind=foreign stage=xdp verdict=refused vip=198.51.100.1"] == 2
    )
    assert len(named(before, "maglev0_node_info dataplane=nftables id=2 ")) == 1
    assert before["maglev0_lease_seconds vip=198.51.100.1"] == 1.33
    failing = CheckOutcome(parse_check("tcp:80"), up=False, duration_s=0.001, reason="refused")
    findings = Findings({7: (1, 2)}, frozenset({1, 3}), (3,))
    exporter.publish(
        VIP,
        snapshot(
            results=(failing,), findings=findings, able=False, zookeeper=SessionState.SUSPENDED
        ),
    )
    after = scraped(exporter)
    assert [
        after[f"maglev0_{name} vip=198.51.100.1"]
        for name in ("buckets_overlapping", "buckets_unowned", "members_silent")
    ] == [1, 2, 1]
    assert [after[f"maglev0_{name} vip=198.51.100.1"] for name in ("able", "healthy")] == [0, 0]
    assert after["maglev0_zookeeper_state state=suspended vip=198.51.100.1"] == 1


def test_before_a_view_and_without_a_readable_kernel_a_scrape_gives_what_is_known(
    exporter: Exporter,
) -> None:
    exporter.publish(VIP, snapshot())
    progress = snapshot().progress._replace(view=None, ownership=None, held=frozenset({4}))
    exporter.publish(
        VIP, snapshot(progress=progress, report=None, findings=None, counters=None, results=())
    )
    found = scraped(exporter)
    assert found["maglev0_buckets_owned vip=198.51.100.1"] == 1
    assert not named(found, "buckets_share"), "the table is not known, which is no share of 0"
    assert found["maglev0_healthy vip=198.51.100.1"] == 1
    assert not named(found, "view_number") | named(found, "overlapping") | named(found, "packets")
    (info,) = named(found, "node_info")
    assert "xdp=native" in info, "a label that comes and goes would begin another series"


def test_hand_overs_requests_and_errors_add_up(exporter: Exporter) -> None:
    exporter.publish(VIP, snapshot())
    assert all(scraped(exporter)[f"maglev0_errors_total kind={kind}"] == 0 for kind in ERRORS)
    assert all(
        scraped(exporter)[f"maglev0_handover_seconds_count phase={phase} vip=198.51.100.1"] == 0
        for phase in PHASES
    )
    for seconds in (0.004, 0.04):
        exporter.took(VIP, "acquired", seconds)
        exporter.answered(seconds)
    exporter.failed("kernel")
    found = scraped(exporter)
    assert found["maglev0_handover_seconds_bucket le=0.005 phase=acquired vip=198.51.100.1"] == 1
    assert found["maglev0_handover_seconds_sum phase=acquired vip=198.51.100.1"] == pytest.approx(
        0.044
    )
    assert found["maglev0_zookeeper_request_seconds_count"] == 2
    assert found["maglev0_errors_total kind=kernel"] == 1
    assert not named(found, "_created")


def test_a_vip_that_is_not_served_any_more_has_no_metrics(exporter: Exporter) -> None:
    for vip in (VIP, OTHER):
        exporter.publish(vip, snapshot())
        exporter.took(vip, "prepared", 0.01)
    assert named(scraped(exporter), f"vip={OTHER}")
    exporter.remove(OTHER)
    exporter.remove(IPv4Address("198.51.100.3"))
    assert not named(scraped(exporter), f"vip={OTHER}")
    assert named(scraped(exporter), f"vip={VIP}")


def test_promtool_finds_nothing_wrong_with_the_metrics(exporter: Exporter, tmp_path: Path) -> None:
    exporter.publish(VIP, snapshot())
    (tmp_path / "metrics").write_text(ask(port_of(exporter))[1])
    assert run("sh", "-c", f"{program('promtool')} check metrics <{tmp_path / 'metrics'}") == ""


def test_conntrack_is_counted_where_the_kernel_has_it() -> None:
    entries = conntrack_entries()
    assert entries is None or 0 <= entries[0] <= entries[1]


# How it is served.


def test_there_is_one_path_and_it_is_only_read(exporter: Exporter) -> None:
    port = port_of(exporter)
    assert ask(port, "/metrics?any=thing")[0] == 200
    for path in ("/", "/metrics/", "/favicon.ico", "/../metrics"):
        assert ask(port, path)[0] == 404
    assert ask(port, method="POST")[0] == 501
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request("GET", "/")
    assert connection.getresponse().headers["Server"] == "maglev0"
    connection.close()


def test_an_address_that_is_taken_is_one_line_and_changes_nothing(
    exporter: Exporter,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(
            MaglevError,
            match=rf"^serving metrics on 127\.0\.0\.1:{port}: address already in use; .*--metrics$",
        ):
            exporter.start("127.0.0.1", port)
    with pytest.raises(MaglevError, match="cannot assign requested address"):
        exporter.start("192.0.2.1", 9105)
    with pytest.raises(MaglevError, match=r"^serving metrics on \[2001:db8::1\]:9105: "):
        exporter.start("2001:db8::1", 9105)
    assert ask(port_of(exporter))[0] == 200


def test_it_moves_to_another_address_and_back_and_forgets_nothing(exporter: Exporter) -> None:
    exporter.failed("config")
    first = port_of(exporter)
    exporter.start("::1", 0)
    with pytest.raises(ConnectionRefusedError):
        ask(first)
    exporter.start("127.0.0.1", first)
    assert scraped(exporter)["maglev0_errors_total kind=config"] == 1
    exporter.stop()
    exporter.stop()
    assert exporter.port is None
    with pytest.raises(ConnectionRefusedError):
        ask(first)
    wait_until(lambda: not any(thread.name == "metrics" for thread in threading.enumerate()))


def wait_until(condition: Any) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_slow_clients_delay_no_other_client_and_are_cut(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTION_S", 1.0)
    port = port_of(exporter)
    before = threading.active_count()
    slow = [
        socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        for _client in range(3 * http_server.MAX_CONNECTIONS)
    ]
    try:
        for client in slow:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert ask(port)[0] == 200
        assert threading.active_count() - before <= http_server.MAX_CONNECTIONS + 1
        for client in slow:
            assert client.recv(10) == b""
        wait_until(lambda: threading.active_count() == before)
    finally:
        for client in slow:
            client.close()


def test_clients_that_hang_up_or_send_nonsense_are_not_logged(
    exporter: Exporter, capfd: pytest.CaptureFixture[str]
) -> None:
    port = port_of(exporter)
    for words in (
        b"",
        b"\x16\x03\x01\xff",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"G" * 70_000,
    ):
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
            client.sendall(words)
    assert ask(port)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_scrapes_while_everything_changes_are_whole(exporter: Exporter) -> None:
    ended = threading.Event()

    def scrape() -> None:
        while not ended.is_set():
            assert ask(port_of(exporter))[0] == 200
            done.append(1)

    done: list[int] = []
    scraper = threading.Thread(target=scrape)
    scraper.start()
    while len(done) < 20:
        for vip in (VIP, OTHER):
            exporter.publish(vip, snapshot())
            exporter.took(vip, "acquired", 0.01)
        exporter.remove(OTHER)
        time.sleep(0.001)
    ended.set()
    scraper.join(PATIENCE_S)
    assert not scraper.is_alive()
    gc.collect()


# On the dashboard.


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
