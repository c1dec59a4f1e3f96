"""`maglev0 simulate`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from maglev0.operator.simulate import command as simulate
from maglev0.operator.simulate import scenario
from tests.support.clusters import Cluster
from tests.zookeeper.operator.site import Site, Terminal

Written = pytest.CaptureFixture[str]

SMALL = """\
5 buckets
view  change  members  largest  smallest       moved      had to  disruption
   0                3  120.00%    60.00%
   1  +4:2          4  100.00%   100.00%  2 (40.00%)  2 (40.00%)   0 (0.00%)
   2  1:0           4  160.00%    80.00%  3 (60.00%)  1 (20.00%)  2 (40.00%)

9 buckets
view  change  members  largest  smallest       moved      had to  disruption
   0                3  100.00%   100.00%
   1  +4:2          4  111.11%    83.33%  3 (33.33%)  3 (33.33%)   0 (0.00%)
   2  1:0           4  133.33%    88.89%  3 (33.33%)  2 (22.22%)  1 (11.11%)
"""


def run(capsys: Written, *arguments: str) -> tuple[int, str, str]:
    status = simulate.main(list(arguments))
    written = capsys.readouterr()
    return status, written.out, written.err


def test_a_table_for_each_size(capsys: Written) -> None:
    status, out, err = run(
        capsys, "--members=1-3", "+4:2", "--total-nodes=5", "1:0", "--total-nodes", "9"
    )
    assert (status, err) == (0, "")
    assert out == SMALL


def test_events_that_look_like_flags_may_stand_anywhere(capsys: Written) -> None:
    expected = run(capsys, "--total-nodes=64", "-3", "+3", "-1,2")
    assert expected[0] == 0
    assert run(capsys, "-3", "--total-nodes=64", "+3", "-1,2") == expected
    assert run(capsys, "-3", "+3", "-1,2", "--total-nodes", "64") == expected


def test_without_a_word_the_last_of_five_leaves(capsys: Written) -> None:
    status, out, _err = run(capsys)
    assert status == 0
    assert out == run(capsys, "--members=1-5", "--total-nodes=65537", "-5")[1]


def test_json_says_the_same_and_whose_share_is_how_large(capsys: Written) -> None:
    status, out, err = run(
        capsys, "--json", "--members=1-3,4:2", "--total-nodes=251", "--total-nodes=5", "-2"
    )
    assert (status, err, out.count("\n")) == (0, "", 1)
    found: dict[str, Any] = json.loads(out)
    asked = scenario.scenario(
        [251, 5], scenario.parse_members("1-3,4:2"), [scenario.parse_event("-2")]
    )
    views = [view for sheet in found["sizes"] for view in sheet["views"]]
    assert [sheet["total_nodes"] for sheet in found["sizes"]] == [251, 5]
    for view, step in zip(views, scenario.evaluate(asked), strict=True):
        assert (view["view"], view["event"]) == (step.number, "-2" if step.number else None)
        assert (view["moved"], view["necessary"], view["disruption"]) == step.movement
        assert (view["largest"], view["smallest"]) == step.balance
        assert {
            int(member): row["buckets"] for member, row in view["members"].items()
        } == step.shares
        assert {
            int(member): row["weight"] for member, row in view["members"].items()
        } == step.weights


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--total-nodes=0"], "--total-nodes=0: must be a whole number from 1 to 1048576"),
        (["--members=1-3", "-4"], "-4: backend-4 is not a member then"),
        (
            ["leave", "3"],
            (
                "leave: must be ids and ranges with weights, such as 1-4:2,7;"
                " maglev0 simulate --help has examples"
            ),
        ),
        (
            ["--live", "--members=1"],
            (
                "--live and --members exclude each other: the members are those of a running"
                " cluster, or those of the list"
            ),
        ),
        (
            ["--plot=x.pdf"],
            "--plot=x.pdf: the name must end in .png or .svg, which chooses the format",
        ),
        (["--plot=no/where/x.png"], "--plot=no/where/x.png: the directory no/where does not exist"),
        (
            ["--plot=x.png", "--members=1"],
            "--plot: a picture shows 1 to 12 changes, not 0 (events times sizes)",
        ),
        (
            ["--plot=x.png", *["1:2"] * 13],
            "--plot: a picture shows 1 to 12 changes, not 13 (events times sizes)",
        ),
        (
            ["--seize=5"],
            (
                "there is no flag --seize; cannot read the command line: simulate --seize=…; "
                "maglev0 simulate --help shows what is allowed"
            ),
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    capsys: Written, arguments: list[str], fault: str
) -> None:
    assert run(capsys, *arguments) == (2, "", f"maglev0: {fault}\n")


def test_what_may_take_long_is_said_before(
    capsys: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "LONG_S", 0.0001)
    status, _out, err = run(capsys, "--total-nodes=100", "1:2")
    assert (status, err) == (
        0,
        "maglev0: computing 2 tables of up to 100 buckets; that may take 0 s\n",
    )


def test_a_terminal_shows_how_far_it_is() -> None:
    terminal = Terminal("simulate", "--total-nodes=262144", *["1:2", "1:3"] * 3)
    assert terminal.ends() == 0
    assert "7 tables of up to 262,144 buckets; that may take 4 s" in terminal.output
    assert "100%" in terminal.output
    assert "262,144 buckets\r\n" in terminal.output


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture_is_written_beside_the_table(
    capsys: Written, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"moves.{suffix}"
    path.write_text("an older one")
    status, out, err = run(capsys, f"--plot={path}", "--total-nodes=64", "-3")
    assert (status, err) == (0, "")
    assert out.startswith("64 buckets\n")
    assert [*tmp_path.iterdir()] == [path]
    if suffix == "png":
        assert imread(path).shape[1] == 1950
    else:
        assert path.read_text().rstrip().endswith("</svg>")


def test_a_picture_that_cannot_be_written_leaves_nothing(capsys: Written, tmp_path: Path) -> None:
    (tmp_path / "moves.png").mkdir()
    assert run(capsys, f"--plot={tmp_path / 'moves.png'}", "--total-nodes=64") == (
        1,
        "",
        f"maglev0: writing {tmp_path}/moves.png: Is a directory\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["moves.png"]


def test_without_matplotlib_it_says_how_to_get_it_and_needs_it_for_pictures_alone(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None;"
        " from maglev0.operator.simulate import command; sys.exit(command.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--total-nodes=64"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    done = subprocess.run(
        [*command, f"--plot={tmp_path / 'x.png'}"], capture_output=True, text=True, check=False
    )
    expected = (
        "maglev0: --plot needs matplotlib, which is not installed:"
        f" {sys.executable} -m pip install 'matplotlib>=3.8'\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


@pytest.mark.zookeeper
def test_a_running_cluster_to_start_from(site: Site) -> None:
    cluster = Cluster.of(1, 2, 3, 4)
    cluster.change(2, weight=3)
    cluster.change(3, state="draining")
    cluster.change(4, state="dry-run")
    site.publish(cluster)
    done = site.run("simulate", "--live", site.zk, "--json", "-1")
    assert (done.returncode, done.stderr) == (0, "")
    (sheet,) = json.loads(done.stdout)["sizes"]
    assert sheet["total_nodes"] == 16
    assert {member: row["weight"] for member, row in sheet["views"][0]["members"].items()} == {
        "1": 1,
        "2": 3,
        "3": 0,
    }
    assert {member: row["buckets"] for member, row in sheet["views"][1]["members"].items()} == {
        "2": 16,
        "3": 0,
    }
    done = site.run("simulate", "--live", site.zk, "--total-nodes=65537")
    assert (done.returncode, done.stderr) == (0, "")
    assert "65,537 buckets" in done.stdout
    assert "-3" in done.stdout, "the last that takes part"

    for member in (1, 2):
        site.client.set(site.path(f"/lab/maglev0/198.51.100.1/members/{member}"), b"")
    done = site.run("simulate", "--live", site.zk)
    fault = (
        "no member of the cluster of 198.51.100.1 serves, so there is nothing to start from;"
        " give --members=LIST"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"maglev0: {fault}\n")
