"""The commands for a lab that keeps running: on a real one, each run as a person would."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from maglev0.lab import control
from maglev0.lab.testbed import claim, namespace
from maglev0.lab.testbed.process import Process, python_module, wait_for
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from maglev0.lab.testbed.cluster import Lab

pytestmark = [pytest.mark.kernel, pytest.mark.zookeeper]

# There is no event to wait for in another node's view: how often the status is asked.
ASK_S = 0.2


class Kept:
    """A lab that `maglev0 lab --keep` left running, and its commands."""

    def __init__(self, log: Path) -> None:
        process = Process("lab", python_module("maglev0", "lab", "--nodes=3", "--keep"), log)
        self.name = f"mg{process.pid}"
        self.status = process.wait(PATIENCE_S)
        self.guide = process.output()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on this lab; no error is a traceback."""
        command = python_module("maglev0", "lab", words[0], f"--lab={self.name}", *words[1:])
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def wait_members(self, wanted: dict[str, str]) -> None:
        """Ask until the members are these, each in this state."""

        def found() -> bool | None:
            asked = self.run("status", "--json")
            if asked.returncode not in (0, 1):
                return None
            cluster = json.loads(asked.stdout)["clusters"][0]
            members = {member["name"]: member["state"] for member in cluster["members"]}
            return True if members == wanted else None

        wait_for(found, [], PATIENCE_S, f"members {wanted}", ASK_S)


ALL = dict.fromkeys(("backend-1", "backend-2", "backend-3"), "active")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """A lab of three nodes that serve."""
    lab = Kept(tmp_path_factory.mktemp("kept") / "lab.log")
    try:
        assert lab.status == 0, lab.guide
        lab.wait_members(ALL)
        yield lab
    finally:
        claim.remove(lab.name)


@pytest.fixture
def cluster(kept: Kept) -> Lab:
    """The kept lab as another process sees it."""
    return control.kept_lab(kept.name)


def test_the_guide_names_commands_and_no_long_lines(kept: Kept) -> None:
    assert f"lab {kept.name} is running: backend-1 to backend-3 serve 198.51.100.1" in kept.guide
    named = re.findall(r"^  maglev0 lab (\w+)", kept.guide, re.MULTILINE)
    assert {"status", "drain", "kill", "cut", "logs", "shell", "end"} <= set(named)
    assert max(map(len, kept.guide.splitlines())) <= 100


def test_operators_commands_run_on_a_node(kept: Kept) -> None:
    assert "every bucket has exactly one owner" in kept.run("status", "--node=2").stdout
    assert re.search(r"^owner +backend-", kept.run("explain", "198.18.100.1").stdout, re.MULTILINE)


def test_probe_counts_the_answers(kept: Kept) -> None:
    counted = kept.run("probe", "--requests=200")
    assert "answered once 200, twice or more 0, never 0" in counted.stdout


def test_a_drained_node_has_no_buckets_until_undrain(kept: Kept) -> None:
    drained = kept.run("drain", "2")
    assert (drained.returncode, drained.stdout.splitlines()[-1].endswith("; done")) == (0, True)
    kept.wait_members(ALL | {"backend-2": "draining"})
    assert kept.run("undrain", "2").returncode == 0
    kept.wait_members(ALL)


def test_shell_runs_a_command_in_the_namespace_and_returns_its_status(
    kept: Kept, cluster: Lab
) -> None:
    where = kept.run("shell", "1", "ip", "-brief", "address", "show", "eth0")
    assert "198.18.0.1/16" in where.stdout
    inode = namespace.path_of(cluster.client).stat().st_ino
    assert kept.run("shell", "client", "stat", "-Lc%i", "/proc/self/ns/net").stdout == f"{inode}\n"
    assert kept.run("shell", "client", "sh", "-c", "exit 7").returncode == 7


def test_a_killed_daemon_is_gone_until_start(kept: Kept, cluster: Lab) -> None:
    node = cluster.nodes[1]
    (before,) = control.daemons(node)
    killed = kept.run("kill", "1")
    assert killed.stdout.startswith(f"backend-1: daemon killed (process {before}); ")
    assert control.daemons(node) == []
    kept.wait_members({name: state for name, state in ALL.items() if name != "backend-1"})
    again = kept.run("kill", "1")
    assert (again.returncode, again.stderr) == (
        1,
        "maglev0: backend-1: no daemon runs; maglev0 lab start 1 starts it\n",
    )
    started = kept.run("start", "1")
    assert re.fullmatch(
        r"backend-1: daemon started \(process \d+\); it has joined\n", started.stdout
    )
    (after,) = control.daemons(node)
    assert after != before
    again = kept.run("start", "1")
    assert (again.returncode, again.stderr) == (
        1,
        f"maglev0: backend-1: the daemon runs already (process {after})\n",
    )
    kept.wait_members(ALL)


def test_a_daemon_that_starts_before_its_session_expires_has_joined_too(kept: Kept) -> None:
    kept.run("kill", "1")
    started = kept.run("start", "1")
    assert started.stdout.endswith("; it has joined\n")
    kept.wait_members(ALL)


def test_a_cut_node_leaves_and_comes_back_when_healed(kept: Kept) -> None:
    undo = "maglev0 lab heal 3 undoes it"
    assert kept.run("cut", "3", "traffic").stdout == f"backend-3: traffic cable pulled; {undo}\n"
    kept.wait_members({name: state for name, state in ALL.items() if name != "backend-3"})
    assert kept.run("cut", "3").stdout == f"backend-3: management cable pulled; {undo}\n"
    again = kept.run("cut", "3")
    assert (again.returncode, again.stderr) == (
        1,
        "maglev0: backend-3: already cut; maglev0 lab heal 3 plugs the cables in\n",
    )
    healed = kept.run("heal", "3").stdout
    assert healed == "backend-3: traffic and management cables plugged in again\n"
    kept.wait_members(ALL)
    assert kept.run("heal", "3").stdout == "backend-3: no cable was pulled\n"


def test_logs_are_of_one_daemon_or_of_all_in_the_order_of_time(kept: Kept, cluster: Lab) -> None:
    assert kept.run("logs", "2").stdout.splitlines() == cluster.nodes[2].log_lines()
    lines = kept.run("logs").stdout.splitlines()
    assert {line.split()[0] for line in lines} == set(ALL)
    times = [line.split()[1] for line in lines]
    assert times == sorted(times)


def test_an_unknown_node_or_lab_is_one_line(kept: Kept) -> None:
    for words in (("kill", "7"), ("logs", "x"), ("shell", "7"), ("status", "--node=7")):
        done = kept.run(*words)
        unknown = words[1].removeprefix("--node=")
        assert (done.returncode, done.stderr) == (
            1,
            f"maglev0: lab {kept.name} has no node {unknown}: nodes are 1 to 3\n",
        )
    done = kept.run("kill", "--lab=mg1x999", "1")
    assert done.returncode == 2, "a flag given twice"


def test_end_removes_the_lab(tmp_path: Path) -> None:
    lab = Kept(tmp_path / "lab.log")
    try:
        assert lab.run("end").stdout == f"removed lab {lab.name}\n"
        assert namespace.names(f"{lab.name}-") == []
        assert not claim.directory_of(lab.name).exists()
        assert lab.name not in control.kept_labs()
    finally:
        claim.remove(lab.name)
