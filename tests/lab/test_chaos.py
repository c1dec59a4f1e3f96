"""The short form of the chaos.

One round of faults on the real thing, and the seeds that choose them.

Safety is asserted here; `make chaos` measures the bounds in time.
"""

from __future__ import annotations

import json
import random
import subprocess
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from maglev0.core import table
from maglev0.lab import series
from maglev0.lab.chaos.faults import FAULTS
from maglev0.lab.chaos.run import chosen
from maglev0.lab.testbed.process import python_module
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

# One of each family; a round of the whole list takes two minutes.
SHORT = "join,leave,kill,crash,restart,weight,pause-long,cut-management,kill-leader,flush"
# A round takes a minute: a guard against a run that hangs, not a measurement.
TIMEOUT_S = 4 * PATIENCE_S


@pytest.mark.kernel
@pytest.mark.zookeeper
def test_one_round_of_chaos_is_as_promised(tmp_path: Path) -> None:
    done = chaos(
        "--rounds=1", "--seed=1", "--nodes=4", f"--faults={SHORT}", f"--logs={tmp_path}", "--json"
    )
    report = json.loads(done.stdout)
    assert report["faults"] == [], done.stderr
    assert done.returncode == (1 if report["slow"] else 0)
    assert {row["cause"] for row in report["causes"]} >= {
        "quiet",
        "join",
        "leave",
        "kill",
        "restart",
        "weight",
        "pause, long",
    }
    assert all(row["doubles"] == 0 for row in report["causes"])
    assert sum(row["held"] for row in report["causes"]) >= 2000


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--faults=join,earthquake"],
            "--faults=join,earthquake: no such fault: earthquake; chaos --help names all",
        ),
        (["--nodes=2"], "--nodes=2: must be a number from 3 to 10"),
        (["--zk-loss=maybe"], "--zk-loss=maybe: must be release or hold"),
        (["--seconds=long"], "--seconds=long: must be a number from 0 to 86400"),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(arguments: list[str], complaint: str) -> None:
    done = chaos(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"chaos: {complaint}\n")


def test_help_names_every_fault() -> None:
    text = chaos("--help").stdout
    assert all(f" {name}" in text.replace("\n", " ") for name in FAULTS)


def test_each_fault_comes_as_often_as_the_others_and_the_seed_decides_when() -> None:
    faults = ("a", "b", "c")
    first, again = (list(islice(chosen(faults, random.Random(5)), 30)) for _ in range(2))
    assert first == again
    assert [first.count(name) for name in faults] == [10, 10, 10]


def test_a_series_asks_in_the_buckets_that_move() -> None:
    without = {node: 1 for node in series.EVEN if node != series.TARGET}
    moves = series.moving(series.EVEN, without)
    owners = table.build(series.TOTAL_NODES, {f"backend-{node}": 1 for node in series.EVEN})
    lost = sum(owner == f"backend-{series.TARGET}" for owner in owners)
    assert lost <= sum(moves(bucket) for bucket in range(1, series.TOTAL_NODES + 1)) < 1.1 * lost
    sources = series.sources_where(moves, 50)
    assert len(set(sources)) == 50
    assert series.sources_where(lambda _bucket: True, 3) == (0, 1, 2)


def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = python_module("maglev0.lab.chaos", *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
