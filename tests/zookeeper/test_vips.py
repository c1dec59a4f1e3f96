"""Several VIPs in one daemon, those that cannot be served, and what a reload changes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from maglev0.core.settings import FORMAT
from maglev0.lab.testbed.process import python_module
from maglev0.protocol import orders
from maglev0.protocol.orders import Order
from tests.zookeeper.site import DEADLINE_S, TIMEOUT_S, VIP, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maglev0.lab.testbed.zookeeper import Ensemble
    from tests.zookeeper.site import Node, Site

pytestmark = pytest.mark.zookeeper

OTHER = "198.51.100.2"
PATIENCE_S = 30.0  # a session that lasts longer than a test
FED_S = 0.25  # between two messages to the watchdog
BOTH = f"--cluster-ip={VIP},{OTHER}"


def owner(site: Site, vip: str, number: int) -> int:
    """The session behind a member's znode; 0 where there is none."""
    stat = site.client.exists(f"{site.chroot}/maglev0/{vip}/members/{number}")
    return 0 if stat is None else int(stat.ephemeralOwner)


def joined(site: Site, vip: str, number: int) -> int:
    """The same once it has joined."""
    eventually(lambda: owner(site, vip, number), f"{number} to join {vip}")
    return owner(site, vip, number)


def gone(site: Site, vip: str, number: int) -> None:
    """Wait until it is no member."""
    eventually(lambda: not owner(site, vip, number), f"{number} to leave {vip}")


def test_several_vips_share_one_session_and_leave_together(site: Site) -> None:
    node = site.start(1, BOTH)
    assert joined(site, VIP, 1) == joined(site, OTHER, 1) == node.session()
    node.stop()
    assert owner(site, VIP, 1) == owner(site, OTHER, 1) == 0
    assert {f"backend-1 left {VIP}", f"backend-1 left {OTHER}"} <= set(node.lines)


def test_a_vip_that_cannot_be_served_leaves_the_others_alone(site: Site) -> None:
    site.start(1, f"--cluster-ip={OTHER}", "--total-nodes=7")
    joined(site, OTHER, 1)
    node = site.start(2, BOTH, "--total-nodes=5")
    joined(site, VIP, 2)
    node.wait_line(rf"error: {OTHER} is not served: --total-nodes=5 \(the cluster has 7\)")
    assert (owner(site, VIP, 2) != 0, owner(site, OTHER, 2)) == (True, 0)
    node.stop()


def test_a_daemon_that_can_serve_no_vip_ends(site: Site) -> None:
    for number, vip in enumerate((VIP, OTHER), 1):
        site.start(number, f"--cluster-ip={vip}", "--total-nodes=7")
        joined(site, vip, number)
    node = site.start(3, BOTH, "--total-nodes=5")
    assert node.ends() == 2
    assert node.lines[-1].startswith("maglev0: --total-nodes=5 (the cluster has 7)")


def reload(node: Node, file: Path, text: str) -> None:
    file.write_text(text)
    os.kill(node.process.pid, signal.SIGHUP)


def test_a_reload_takes_what_it_can_and_names_the_rest(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "maglev0.toml"
    file.write_text(f'cluster-ip = "{VIP}"\nweight = 1\n')
    node = site.start(1, f"--config={file}")
    session = joined(site, VIP, 1)

    reload(
        node,
        file,
        f'cluster-ip = ["{VIP}", "{OTHER}"]\nweight = 3\ndrain-timeout = 1\nzk-loss = "hold"\n',
    )
    node.wait_line(r"configuration reloaded: --cluster-ip, --weight, --drain-timeout$")
    node.wait_line(r"warning: configuration changed, in force after a restart: --zk-loss$")
    assert joined(site, OTHER, 1) == session
    eventually(lambda: site.record(1)["weight"] == 3, "the new weight")

    reload(node, file, f'cluster-ip = "{VIP}"\nweight = 3000\n')
    node.wait_line(
        rf"error: configuration not reloaded, the former one stays in force: {file}:2: weight: "
    )
    assert owner(site, OTHER, 1) == session

    reload(node, file, f'cluster-ip = "{OTHER}"\nweight = 3\n')
    gone(site, VIP, 1)
    node.wait_line(rf"backend-1 left {VIP}$")
    reload(node, file, f'cluster-ip = ["{OTHER}", "{VIP}"]\n')
    assert joined(site, VIP, 1) == owner(site, OTHER, 1) == session
    node.stop()


class Manager:
    """The socket of systemd, as a daemon finds it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.prefix = ("env", f"NOTIFY_SOCKET={self.path}")
        self.received: list[str] = []

    @property
    def fed(self) -> int:
        """How many times the watchdog was fed so far."""
        self.hear()
        return self.received.count("WATCHDOG=1")

    def hear(self) -> list[str]:
        """All messages so far, without the status in words and the time of a reload."""
        self.socket.settimeout(0.0)
        with suppress(BlockingIOError):
            while True:
                self.received.append(self.socket.recv(4096).decode().partition("\n")[0])
        return [line for line in self.received if not line.startswith("STATUS=")]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    with made.socket:
        yield made


def test_a_daemon_is_ready_once_the_vip_it_waited_for_has_failed(
    site: Site, manager: Manager
) -> None:
    site.start(1, f"--cluster-ip={OTHER}")
    joined(site, OTHER, 1)
    node = site.start(1, BOTH, prefix=manager.prefix)
    joined(site, VIP, 1)
    node.wait_line(rf"error: {OTHER} is not served: id 1 is held by another live daemon")
    eventually(lambda: manager.hear() == ["READY=1"], "the daemon to report that it is ready")


def test_a_daemon_is_ready_once_the_vip_it_waited_for_is_dropped(
    site: Site, manager: Manager, tmp_path: Path
) -> None:
    holder = site.start(1, f"--cluster-ip={OTHER}", timeout_s=PATIENCE_S)
    joined(site, OTHER, 1)
    holder.freeze()
    file = tmp_path / "maglev0.toml"
    file.write_text(f'cluster-ip = ["{VIP}", "{OTHER}"]\n')
    node = site.start(1, f"--config={file}", prefix=manager.prefix, timeout_s=PATIENCE_S)
    joined(site, VIP, 1)
    reload(node, file, f'cluster-ip = ["{VIP}", "{OTHER}"]\nweight = 2\n')
    node.wait_line("configuration reloaded: --weight$")
    assert manager.hear() == []  # a reload before it is ready is not reported
    reload(node, file, f'cluster-ip = "{VIP}"\nweight = 2\n')
    eventually(lambda: manager.hear() == ["READY=1"], "the daemon to report that it is ready")
    reload(node, file, f'cluster-ip = "{VIP}"\nweight = 3\n')
    eventually(
        lambda: manager.hear() == ["READY=1", "RELOADING=1", "READY=1"], "the reload to be reported"
    )
    holder.thaw()


def test_an_order_that_cannot_be_read_counts_as_none_until_a_command_replaces_it(
    site: Site,
) -> None:
    (node,) = site.joined(1)
    path = f"{site.base}/orders/1"
    site.client.create(path, Order(weight=7).encode())
    eventually(lambda: site.record(1)["weight"] == 7, "the ordered weight")
    node.wait_line("backend-1 is not ordered to drain, ordered to have weight 7$")

    bad = json.dumps({"format": FORMAT, "drained": 1}).encode()
    problem = f"the order at {path} cannot be read: drained is neither true nor false"
    site.client.set(path, bad)
    node.wait_line(f"warning: {problem}; this counts as no order until ")
    eventually(lambda: site.record(1)["weight"] == 1, "its own weight again")
    eventually(lambda: problems(site) == [problem], "the report of the order")

    command(site, "undrain", "1")
    assert site.client.exists(path) is None
    eventually(lambda: problems(site) == [], "the report without the order")

    site.client.create(path, bad)
    eventually(lambda: problems(site) == [problem], "the report of the order")
    command(site, "weight", "1", "5")
    eventually(lambda: site.record(1)["weight"] == 5, "the ordered weight")
    assert orders.decode(site.client.get(path)[0]) == Order(weight=5)


def problems(site: Site) -> list[str]:
    """What member 1 reports to be wrong."""
    path = f"{site.base}/reports/1"
    if site.client.exists(path) is None:
        return []
    found: list[str] = json.loads(site.client.get(path)[0])["problems"]
    return found


def command(site: Site, name: str, *arguments: str) -> None:
    """Leave an order as an operator does."""
    zk = f"--zk={site.ensemble.connect_string}{site.chroot}"
    words = python_module("maglev0", name, zk, f"--cluster-ip={VIP}", "--no-wait", *arguments)
    done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr


def test_a_vip_that_cannot_leave_while_zookeeper_is_away_keeps_no_watchdog_from_being_fed(
    site: Site, manager: Manager, tmp_path: Path, ensemble: Ensemble
) -> None:
    file = tmp_path / "maglev0.toml"
    file.write_text(f'cluster-ip = ["{VIP}", "{OTHER}"]\n')
    prefix = (*manager.prefix, f"WATCHDOG_USEC={3 * FED_S * 1_000_000:.0f}")
    node = site.start(1, f"--config={file}", "--drain-timeout=0", prefix=prefix)
    for vip in (VIP, OTHER):
        joined(site, vip, 1)
    for server in ensemble.servers:
        server.freeze()
    node.wait_line("ZooKeeper")
    reload(node, file, f'cluster-ip = "{VIP}"\n')
    node.wait_line("configuration reloaded: --cluster-ip$")
    # Longer than the bound on what counts as stuck: two leases and a session timeout.
    wanted = manager.fed + round(3 * (2 * TIMEOUT_S + TIMEOUT_S) / FED_S)
    eventually(lambda: manager.fed >= wanted, "the watchdog to be fed")
    for server in ensemble.servers:
        server.thaw()
    node.wait_line(rf"backend-1 left {OTHER}$|backend-1 left$")
    node.stop()


def test_the_program_runs_for_events_in_order_the_last_one_included(
    site: Site, tmp_path: Path
) -> None:
    events = tmp_path / "events"
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$@ $(cat)" >>{events}\n')
    program.chmod(0o755)
    node = site.start(1, f"--notify={program}")
    joined(site, VIP, 1)
    eventually(lambda: events.exists() and "dry-run" in events.read_text(), "the first event")
    node.stop()
    lines = events.read_text().splitlines()
    assert lines[0].split()[:3] == [VIP, "dry-run", "joining"]
    assert lines[-1].split()[1] == "left"
    event = json.loads(lines[0].split(maxsplit=3)[3])
    assert (event["vip"], event["member_id"], event["state"]) == (VIP, 1, "dry-run")


def test_a_report_has_what_the_kernel_holds_and_ends_with_the_member(site: Site) -> None:
    (node,) = site.joined(1)
    path = f"{site.base}/reports/1"
    eventually(lambda: site.client.exists(path), "a report")
    report = json.loads(site.client.get(path)[0])
    assert (report["held"], report["able"], report["problems"]) == (5, True, [])
    node.stop()
    assert site.client.exists(path) is None
