"""Tests of the lab commands: their own flags, and the choice of the lab."""

from __future__ import annotations

import fcntl
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from maglev0.errors import ConfigError
from maglev0.lab import command, control
from maglev0.lab.demo import guide
from maglev0.lab.errors import LabError
from maglev0.lab.testbed import claim
from maglev0.lab.testbed.claim import Claim
from maglev0.lab.testbed.cluster import Lab, LabSettings

if TYPE_CHECKING:
    from pathlib import Path


DEFAULT = LabSettings()


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that replaces /run, so that the tests find no other lab."""
    monkeypatch.setattr("maglev0.lab.testbed.claim._RUN", tmp_path)
    return tmp_path


def kept(name: str, settings: LabSettings = DEFAULT) -> Lab:
    """Create the files that a kept lab leaves in /run; no process runs."""
    directory = claim.directory_of(name)
    directory.mkdir()
    (directory / "lock").touch()
    cluster = Lab(settings, Claim(name, directory))
    control.save(cluster)
    return cluster


@pytest.mark.parametrize(
    ("words", "plain", "given", "rest"),
    [
        (["--watch", "--lab=mg1", "--all"], None, {"--lab": "mg1"}, ["--watch", "--all"]),
        (["2", "--node", "3"], None, {"--node": "3"}, ["2"]),
        (["--lab=mg1", "1", "nft", "--lab=x"], 1, {"--lab": "mg1"}, ["1", "nft", "--lab=x"]),
        (["1", "--lab=mg1", "nft", "-a"], 1, {"--lab": "mg1"}, ["1", "nft", "-a"]),
        ([], 1, {}, []),
    ],
)
def test_own_flags_are_removed_and_other_words_stay(
    words: list[str], plain: int | None, given: dict[str, str], rest: list[str]
) -> None:
    assert command.own_flags(words, ("--lab", "--node"), plain) == (given, rest)


def test_an_own_flag_without_its_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="--lab needs a value"):
        command.own_flags(["--lab"], ("--lab",))


@pytest.mark.usefixtures("run_directory")
def test_one_lab_needs_no_name_and_several_are_listed() -> None:
    with pytest.raises(LabError, match=r"^no lab is running: maglev0 lab --keep starts one$"):
        control.kept_lab(None)
    settings = LabSettings(nodes=3, total_nodes=251, more_flags=("--xdp=off",))
    kept("mg11", settings)
    assert control.kept_lab(None).settings == settings
    kept("mg12")
    several = "several labs are running, choose one by --lab=NAME: mg11, mg12"
    with pytest.raises(LabError, match=f"^{several}$"):
        control.kept_lab(None)
    assert control.kept_lab("mg12").claim.name == "mg12"
    with pytest.raises(LabError, match=r"^there is no lab mg13; running: mg11, mg12$"):
        control.kept_lab("mg13")


def test_only_a_kept_lab_is_controlled(run_directory: Path) -> None:
    (run_directory / "maglev0-lab-mg5").mkdir()
    assert control.kept_labs() == []


@pytest.mark.parametrize("text", ["", "{}", '{"more_flags": [], "vip": "x"}', "[]"])
def test_an_unreadable_record_says_how_to_remove_the_lab(run_directory: Path, text: str) -> None:
    kept("mg11")
    (run_directory / "maglev0-lab-mg11" / "lab.json").write_text(text)
    with pytest.raises(LabError, match=r"remove that lab: maglev0 lab end --lab=mg11$"):
        control.kept_lab(None)


@pytest.mark.usefixtures("run_directory")
def test_end_with_several_labs_needs_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    kept("mg11")
    kept("mg12")
    assert command.main(["end"]) == 1
    assert capsys.readouterr().err == (
        "maglev0: several labs can end, choose one by --lab=NAME or --all: mg11, mg12\n"
    )
    assert command.main(["end", "--lab=mg11"]) == 0
    assert command.main(["end"]) == 0
    assert capsys.readouterr().out == "removed lab mg11\nremoved lab mg12\n"
    assert command.main(["end"]) == 1


@pytest.mark.usefixtures("run_directory")
def test_a_lab_with_an_owner_is_not_ended() -> None:
    kept("mg11")
    with ExitStack() as stack:
        lock = stack.enter_context((claim.directory_of("mg11") / "lock").open())
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command.main(["end", "--lab=mg11"]) == 1
        assert command.main(["end", "--all"]) == 1
    assert control.kept_labs() == ["mg11"]


@pytest.mark.parametrize("number", ["0", "3", "x", "-1", "²", ""])
def test_an_unknown_node_is_refused(number: str, tmp_path: Path) -> None:
    cluster = Lab(LabSettings(nodes=2), Claim("mg11", tmp_path))
    assert control.node_called(cluster, "backend-2") is cluster.nodes[2]
    with pytest.raises(LabError, match=rf"^lab mg11 has no node {number}: nodes are 1 to 2$"):
        control.node_called(cluster, number)


def test_logs_of_several_nodes_are_merged_by_time_and_named(tmp_path: Path) -> None:
    cluster = Lab(LabSettings(nodes=2), Claim("mg11", tmp_path))
    (tmp_path / "backend-1.log").write_text(
        "2026-01-01T00:00:01.000 a\nTraceback\n2026-01-01T00:00:03.000 d\n"
    )
    (tmp_path / "backend-2.log").write_text("2026-01-01T00:00:02.000 c\n")
    merged = [re.sub(r"2026\S* ", "", line) for line in control.logged([*cluster.nodes.values()])]
    assert merged == ["backend-1  a", "backend-1  Traceback", "backend-2  c", "backend-1  d"]
    assert list(control.logged([cluster.nodes[2]])) == ["2026-01-01T00:00:02.000 c"]


def test_the_guide_names_the_lab_where_several_run(tmp_path: Path) -> None:
    cluster = Lab(LabSettings(nodes=2), Claim("mg11", tmp_path))
    assert "--lab" not in guide.text(cluster, alone=True)
    assert "add --lab=mg11 to each command" in guide.text(cluster, alone=False)
