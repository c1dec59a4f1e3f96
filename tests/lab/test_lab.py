"""The command itself, end to end: it tells the truth, and leaves nothing behind however it ends."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from maglev0.lab.demo.narration import Narrator
from maglev0.lab.demo.story import Demo
from maglev0.lab.testbed import claim, namespace
from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.testbed.process import Process, python_module
from maglev0.lab.traffic.probe import ProbePlan
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.kernel, pytest.mark.zookeeper]

SESSION_S = 4.0
# Well into each part of the demo: nothing but namespaces, a ZooKeeper, daemons joining, probing, a
# node being lost.
MOMENTS = [
    (signal.SIGINT, "a cluster in a box"),
    (signal.SIGTERM, "join one by one"),
    (signal.SIGINT, r"members \[1, 2\]"),
    (signal.SIGTERM, "each from a new port"),
    (signal.SIGINT, "is lost"),
]


class LabRun:
    """`maglev0 lab` with arguments, run as a user would."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.process = Process(
            "lab", python_module("maglev0", "lab", *arguments), directory / "lab.log"
        )
        self.name = f"mg{self.process.pid}"

    @property
    def remains(self) -> list[str]:
        """Whatever is left of it: namespaces (with what runs in them), directory."""
        directory = claim.directory_of(self.name)
        return [
            *namespace.names(f"{self.name}-"),
            *([str(directory)] if directory.exists() else []),
        ]


@pytest.fixture
def cleaned() -> Iterator[list[LabRun]]:
    """Labs put here are ended after the test, also when it failed."""
    labs: list[LabRun] = []
    yield labs
    for lab in labs:
        lab.process.kill()
        claim.remove(lab.name)


def test_the_demo_ends_by_itself_with_every_request_answered_once(
    tmp_path: Path, cleaned: list[LabRun]
) -> None:
    # The longest session, so that a busy machine keeps its leases in quiet times.
    lab = LabRun(tmp_path, "--nodes=3", f"--session-timeout={SESSION_S}")
    cleaned.append(lab)
    assert lab.process.wait(PATIENCE_S) == 0, lab.process.output()
    story = lab.process.output()
    assert story.count("answered once 2000, twice or more 0, never 0") == 4
    assert "\x1b" not in story, "plain text where there is no terminal"
    served = re.search(r"served again ([\d.]+) s after the loss", story)
    assert served is not None
    # A crash that others notice before the session can have expired would be an orderly leave.
    # Pings are a third of the session apart.
    assert float(served[1]) > SESSION_S / 2
    assert lab.remains == []


@pytest.mark.parametrize(("number", "moment"), MOMENTS)
def test_a_signal_leaves_nothing_behind(
    tmp_path: Path, cleaned: list[LabRun], number: signal.Signals, moment: str
) -> None:
    lab = LabRun(tmp_path, "--nodes=2")
    cleaned.append(lab)
    lab.process.wait_line(moment, PATIENCE_S)
    lab.process.signal(number)
    assert lab.process.wait() == 128 + number
    assert lab.remains == []


def test_after_kill_9_the_next_end_sweeps(tmp_path: Path, cleaned: list[LabRun]) -> None:
    lab = LabRun(tmp_path, "--nodes=2")
    cleaned.append(lab)
    lab.process.wait_line(r"members \[1, 2\]", PATIENCE_S)
    refused = _maglev0_lab("end", f"--lab={lab.name}")
    assert (refused.returncode, refused.stderr) == (
        1,
        f"maglev0: lab {lab.name} belongs to a running process: stop that process\n",
    )
    lab.process.kill()
    _await_ownerless(lab)
    assert lab.remains != []
    assert lab.name in claim.left_over()
    ended = _maglev0_lab("end", f"--lab={lab.name}")
    assert ended.stdout == f"removed lab {lab.name}\n"
    assert lab.remains == []


def test_a_request_that_nobody_answers_makes_the_demo_fail(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Lab(LabSettings(nodes=2)) as cluster:
        rules = (
            "table ip planted { chain incoming { type filter hook input priority "
            "0; ip saddr 198.18.100.0/28 udp dport 8000 drop; }; }"
        )
        subprocess.run(
            [
                "nsenter",
                f"--net={namespace.path_of(cluster.nodes[1].machine.namespace)}",
                "nft",
                rules,
            ],
            check=True,
        )
        asked = ProbePlan(requests=500, clients=250)
        assert Demo(cluster, Narrator(), asked).show() == 1
    story = capsys.readouterr().out
    assert (
        "NOT AS PROMISED: without backend-2: 500 requests from 250 clients: "
        "answered once 485, twice or more 0, never 15"
    ) in story
    assert "15 requests of 15 clients, sent" in story


def test_a_power_cut_is_no_orderly_leave() -> None:
    with Lab(LabSettings(nodes=2, session_timeout_s=1.0)) as cluster:
        cluster.start()
        cluster.nodes[2].power_off()
        assert cluster.live() == (1,)
        cluster.settle()
        assert "backend-2 left" not in cluster.nodes[2].machine.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--nodes=1"], "--nodes=1: must be a whole number from 2 to 50"),
        (["--nodes=x"], "--nodes=x: must be a whole number from 2 to 50"),
        (
            ["--nodes=5", "--total-nodes=4"],
            "--total-nodes=4: must be a whole number from 5 to 1048576",
        ),
        (["--dataplane=xdp"], "--dataplane=xdp: must be auto, clusterip or nftables"),
        (
            ["--session-timeout=60"],
            "--session-timeout=60: must be a number of seconds from 0.4 to 4",
        ),
        (
            ["--session-timeout=nan"],
            "--session-timeout=nan: must be a number of seconds from 0.4 to 4",
        ),
        (
            ["--bogus"],
            (
                "there is no flag --bogus; cannot read the command line: lab --bogus; "
                "maglev0 lab --help shows what is allowed"
            ),
        ),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(arguments: list[str], complaint: str) -> None:
    done = _maglev0_lab(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"maglev0: {complaint}\n")


def test_a_name_that_is_no_labs_is_refused() -> None:
    done = _maglev0_lab("end", "--lab=../etc")
    assert (done.returncode, done.stderr) == (
        1,
        "maglev0: removing lab '../etc': the name of a lab looks like mg1234\n",
    )


@pytest.mark.parametrize(
    ("programs", "complaint"),
    [
        ([], "nsenter is missing: apt install util-linux"),
        (["nsenter"], "java is missing: apt install"),
    ],
)
def test_a_missing_program_is_one_line_with_what_mends_it(
    tmp_path: Path, programs: list[str], complaint: str
) -> None:
    for program in programs:
        (tmp_path / program).symlink_to(shutil.which(program) or "")
    done = subprocess.run(
        python_module("maglev0", "lab"),
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"maglev0: {complaint}")
    assert done.stderr.count("\n") == 1


def test_without_root_it_says_so() -> None:
    script = (
        "import os; from maglev0.lab import command; os.seteuid(65534); raise "
        "SystemExit(command.main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (
        1,
        (
            "maglev0: the lab makes and enters network namespaces, which takes "
            "root: run it with sudo\n"
        ),
    )


def _await_ownerless(lab: LabRun) -> None:
    """Wait for the lock that the lab's worker holds, which the kernel kills when its parent is
    killed.
    """
    with (claim.directory_of(lab.name) / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def _maglev0_lab(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        python_module("maglev0", "lab", *arguments), capture_output=True, text=True, check=False
    )
