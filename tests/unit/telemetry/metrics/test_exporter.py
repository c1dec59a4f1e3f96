"""What Prometheus gets from a daemon."""

from __future__ import annotations

import gc
import socket
import threading
import time
from http.client import HTTPConnection
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from maglev0.config.health_checks import parse_check
from maglev0.coordination.session import SessionState
from maglev0.errors import MaglevError
from maglev0.health.runner import CheckOutcome
from maglev0.telemetry.audit import Findings
from maglev0.telemetry.metrics import http_server
from maglev0.telemetry.metrics.exporter import Exporter, conntrack_entries
from maglev0.telemetry.metrics.measures import ERRORS, PHASES
from tests.project.conftest import run
from tests.support.exporters import ask, named, port_of, scraped, snapshot
from tests.support.patience import PATIENCE_S
from tests.support.prometheus import program

VIP, OTHER = IPv4Address("198.51.100.1"), IPv4Address("198.51.100.2")

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
