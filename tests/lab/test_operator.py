"""What operators do to a cluster under load, and what it tells them.

On real daemons, kernels and packets.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest

from maglev0.lab.chaos import saboteur
from maglev0.lab.errors import LabError
from maglev0.lab.testbed import addresses, namespace
from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.testbed.process import Process, python_module, wait_for
from maglev0.lab.traffic.clients import Clients, Pace
from maglev0.lab.traffic.probe import ProbePlan
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from maglev0.lab.testbed.node import LabNode

pytestmark = [pytest.mark.kernel, pytest.mark.zookeeper]

SECOND = IPv4Address("198.51.100.2")
# The daemon repairs a planted fault within milliseconds: it is planted so often that reports see
# it.
PLANT_S = 0.05
# There is no event to wait for: how often a cluster is asked.
ASK_S = 0.2
HEALTH_PORT = 8001
INTERVAL_S, FALL = 0.5, 2
CHECKS = (
    "--check=tcp:8000",
    f"--check=http://:{HEALTH_PORT}/",
    f"--check-timing={INTERVAL_S},0.4,1,{FALL}",
)
LOAD = Pace(sources=tuple(range(32)), rate=100.0, held_rate=50.0, connections=60)


def ask(cluster: Lab, *arguments: str, node: int = 1) -> tuple[int, str]:
    """Run a command of the operator's on a node; its exit status, and what it printed."""
    flags = (f"--zk={cluster.zookeeper.connect_string}", f"--cluster-ip={cluster.settings.vip}")
    inside = ["nsenter", f"--net={namespace.path_of(cluster.nodes[node].machine.namespace)}", "--"]
    done = subprocess.run(
        [*inside, *python_module("maglev0", *arguments, *flags)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def status(cluster: Lab) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(cluster, "status", "--json")[1])["clusters"][0]
    return found


def until(cluster: Lab, wanted: Any, what: str) -> dict[str, Any]:
    """Ask for the status until it is as wanted."""
    return wait_for(
        lambda: found if wanted(found := status(cluster)) else None, [], PATIENCE_S, what, ASK_S
    )


def member(found: dict[str, Any], number: int) -> dict[str, Any]:
    return next(entry for entry in found["members"] if entry["id"] == number)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    """Three nodes that serve."""
    with Lab(LabSettings(nodes=3, more_flags=("--xdp=off",))) as made:
        made.start()
        until(
            made,
            lambda found: (
                found["verdict"] == "sound" and all(entry["report"] for entry in found["members"])
            ),
            "all to have reported",
        )
        yield made


def start_command(cluster: Lab, *arguments: str) -> Process:
    """The same without waiting for its end."""
    flags = (f"--zk={cluster.zookeeper.connect_string}", f"--cluster-ip={cluster.settings.vip}")
    log = cluster.claim.directory / f"{arguments[0]}.log"
    return Process(
        arguments[0],
        python_module("maglev0", *arguments, *flags),
        log,
        cluster.nodes[1].machine.namespace,
    )


def test_orders_move_buckets_hold_across_a_restart_and_break_nothing(cluster: Lab) -> None:
    with Clients(cluster, LOAD) as users:
        users.wait_held()
        draining = start_command(cluster, "drain", "2")
        until(
            cluster,
            lambda found: member(found, 2)["state"] == "draining" and found["verdict"] == "sound",
            "backend-2 to drain",
        )
        assert users.held().get(2, 0) > 0
        assert not draining.ended  # for its connections live on
        users.retire(2)
        assert draining.wait(PATIENCE_S) == 0
        assert draining.output().splitlines()[-1].endswith("; done")
        assert ask(cluster, "weight", "3", "2")[0] == 0
        assert cluster.nodes[2].stop_daemon() == 0
        cluster.nodes[2].start_daemon()
        found = until(
            cluster,
            lambda found: len(found["members"]) == 3 and found["verdict"] == "sound",
            "backend-2 to be back",
        )
        assert (member(found, 2)["state"], member(found, 2)["buckets"]) == ("draining", 0)
        assert member(found, 3)["buckets"] in (42, 43)
        for order in (("undrain", "2"), ("weight", "3", "own")):
            assert ask(cluster, *order)[0] == 0
        found = until(
            cluster,
            lambda found: member(found, 3)["buckets"] in (21, 22) and found["verdict"] == "sound",
            "all to be as before",
        )
        assert member(found, 2)["buckets"] in (21, 22)
        result = users.stop()
    assert sum(turn.is_break for turn in result.turns) == 0


@pytest.mark.parametrize(
    ("plant", "number", "alarm"),
    [
        (
            saboteur.put_in_force,
            1,
            (
                r"error: overlap: 1 bucket is in force on several nodes, such as \d+ on "
                r"backend-1, backend-2$"
            ),
        ),
        (
            saboteur.take_out_of_force,
            2,
            r"error: hole: 1 bucket is in force on no node, such as \d+$",
        ),
    ],
)
def test_a_planted_fault_is_found_reported_and_repaired(
    cluster: Lab, plant: Any, number: int, alarm: str
) -> None:
    """The lab puts a bucket of backend-1 in force on backend-2, or takes one of its own from it.

    It does so again and again; backend-2's daemon repairs it each time.
    """
    # Within a lease and five seconds after a change a faulty bucket may be one that moves.
    until(
        cluster,
        lambda found: found["verdict"] == "sound" and found["view"]["age_s"] > 7,
        "the last change to be over",
    )
    picture = cluster.nodes[number].picture()
    assert picture is not None
    bucket = int(picture.held.split(",")[0])
    first = cluster.nodes[1].daemon

    def plant_again() -> None:
        with suppress(LabError):  # a hand-over is under way
            plant(cluster.nodes[2], cluster.settings.vip, [bucket])

    def logged() -> bool | None:
        plant_again()
        return True if re.search(alarm, first.output(), re.MULTILINE) else None

    def shown() -> bool | None:
        asking = start_command(cluster, "status")
        while not asking.ended:
            plant_again()
            time.sleep(PLANT_S)
        return True if (asking.wait(), "ALARM" in asking.output()) == (1, True) else None

    wait_for(logged, [first], PATIENCE_S, "the alarm in the log", PLANT_S)
    wait_for(shown, [first], PATIENCE_S, "the alarm in the status", ASK_S)
    first.wait_line(r"no (overlaps|holes) any more$", PATIENCE_S)
    repaired = until(cluster, lambda found: found["verdict"] == "sound", "the fault to be repaired")
    assert repaired["overlaps"]["count"] == 0


def answers(cluster: Lab, vip: IPv4Address) -> int:
    """Ask a VIP once from each of 40 addresses; how many answered, each exactly once."""
    once = 0
    with namespace.inside(cluster.client):
        for client in range(40):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.bind((str(addresses.client_address(client)), 0))
                asking.settimeout(0.2)
                asking.sendto(b"hello\n", (str(vip), addresses.SERVICE_PORT))
                with suppress(TimeoutError, ConnectionRefusedError):
                    once += asking.recv(200).startswith(b"hello backend-")
                    asking.settimeout(0.01)
                    once -= bool(asking.recv(200))
    return once


def configured(node: LabNode, *vips: IPv4Address) -> None:
    """Write the node's file."""
    listed = ", ".join(f'"{vip}"' for vip in vips)
    (node.machine.directory / f"{node.machine.name}.toml").write_text(
        f"cluster-ip = [{listed}]\nweight = 1\n"
    )


def test_vips_come_and_go_by_sighup_and_break_nothing_elsewhere() -> None:
    with Lab(LabSettings(nodes=3)) as cluster:
        for node in cluster.nodes.values():
            configured(node, cluster.settings.vip)
            file = node.machine.directory / f"{node.machine.name}.toml"
            node.daemon_command = [
                part for part in node.daemon_command if not part.startswith("--cluster-ip")
            ] + [f"--config={file}"]
        cluster.start()
        with Clients(cluster, LOAD) as users:
            users.wait_held()
            reload(cluster, cluster.settings.vip, SECOND)
            wait_for(
                lambda: True if answers(cluster, SECOND) == 40 else None,
                [],
                PATIENCE_S,
                "the second VIP to be served",
                ASK_S,
            )
            reload(cluster, cluster.settings.vip)
            for node in cluster.nodes.values():
                node.daemon.wait_line(f"backend-{node.machine.number} left {SECOND}$", PATIENCE_S)
            assert answers(cluster, SECOND) == 0
            result = users.stop()
        assert sum(turn.is_break for turn in result.turns) == 0
        tables = subprocess.run(
            [
                "nsenter",
                f"--net={namespace.path_of(cluster.nodes[1].machine.namespace)}",
                "--",
                "nft",
                "list",
                "tables",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert str(SECOND) not in tables


def reload(cluster: Lab, *vips: IPv4Address) -> None:
    for node in cluster.nodes.values():
        configured(node, *vips)
        node.daemon.signal(signal.SIGHUP)


def health_server(node: LabNode, directory: Path) -> Process:
    directory.mkdir(exist_ok=True)
    log = directory / f"health-{node.machine.name}.log"
    command = python_module("http.server", str(HEALTH_PORT), f"--directory={directory}")
    return Process(f"health of {node.machine.name}", command, log, node.machine.namespace)


def test_only_healthy_nodes_answer_and_all_do_when_none_is(tmp_path: Path) -> None:
    with Lab(LabSettings(nodes=3, more_flags=CHECKS)) as cluster:
        health = {number: health_server(node, tmp_path) for number, node in cluster.nodes.items()}
        try:
            cluster.start()
            until(
                cluster,
                lambda found: all(
                    entry["state"] == "active" and entry["report"] for entry in found["members"]
                ),
                "all to be healthy",
            )
            with Clients(cluster, LOAD) as users:
                users.wait_held()
                with cluster.probing(ProbePlan(clients=60, rate_per_s=200)) as probing:
                    probing.let_all_ask(2)
                    health[2].kill()
                    cluster.nodes[2].responder.kill()
                    cluster.settle((1, 3), shares={"backend-1": 32, "backend-3": 32})
                    probing.let_all_ask(3)
                held = users.held()
                result = users.stop()
            assert held.get(2, 0) == 0
            assert [turn for turn in result.turns if turn.is_break and turn.node != 2] == []
            assert all(outage.until_s is not None for outage in probing.report.outages())
            assert probing.report.twice == 0
            for number in (1, 3):
                health[number].kill()
            cluster.settle((1, 2, 3), shares={"backend-1": 22, "backend-2": 21, "backend-3": 21})
            cluster.nodes[1].daemon.wait_line("every member fails its checks")
            found = until(
                cluster,
                lambda found: all(entry["state"] == "failing" for entry in found["members"]),
                "all to fail",
            )
            assert any("fail" in note for note in found["notes"])
            health |= {1: health_server(cluster.nodes[1], tmp_path)}
            cluster.settle((1,), shares={"backend-1": 64})
        finally:
            for process in health.values():
                process.kill()
