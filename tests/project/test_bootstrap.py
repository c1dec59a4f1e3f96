"""The script that installs what a machine lacks, on machines made of a handful of programs each."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.project.conftest import ROOT, run

NOBODY = 65534
# What an installed package brings, as far as the script looks; with a record of the call.
APT_GET = """#!/bin/sh
echo "$@" >>{log}
case $1 in
    update) touch {lists} ;;
    install) [ -e {lists} ] || exit 100; printf '#!/bin/sh\\n' >{program}; chmod +x {program} ;;
esac
"""
# Called as `python3 -c CODE ARGUMENTS`.
PYTHON_AT_HOME = """#!/bin/sh
code=$2
shift 2
exec {python} -c "import sys; sys.base_prefix = '/home/somebody/python'; sys.executable = '{itself}'
$code" "$@"
"""


class Machine(NamedTuple):
    """A machine whose programs are those in `programs`, and the checkout's scripts on it."""

    programs: Path
    scripts: Path

    def need(self, *what: str, status: int, user: int = 0) -> str:
        return run(
            "setpriv",
            f"--reuid={user}",
            "--clear-groups",
            "env",
            f"PATH={self.programs}",
            self.scripts / "need",
            *what,
            status=status,
        )


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not pytest's own temporary folder: that one is closed to other users.
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        programs = home / "bin"
        programs.mkdir()
        for program in ("sh", "dirname", "id", "mkdir", "tail", "touch", "chmod"):
            (programs / program).symlink_to(shutil.which(program) or "missing")
        yield Machine(programs, Path(shutil.copytree(ROOT / ".ci", home / "checkout/.ci")))


def add_apt_get(machine: Machine, *, brings: str) -> Path:
    log = machine.scripts / "apt-get.log"
    program = machine.programs / "apt-get"
    program.write_text(
        APT_GET.format(log=log, lists=machine.scripts / "lists", program=machine.programs / brings)
    )
    program.chmod(0o755)
    return log


def test_what_is_missing_is_installed_once_after_updating_lists_that_are_missing_too(
    machine: Machine,
) -> None:
    log = add_apt_get(machine, brings="shellcheck")
    assert "judges the shell scripts (shellcheck)" in machine.need("check", status=0)
    assert [line.split()[0] for line in log.read_text().splitlines()] == [
        "install",
        "update",
        "install",
    ]
    assert machine.need("check", status=0) == ""


def test_a_machine_without_apt_is_told_what_to_install(machine: Machine) -> None:
    out = machine.need("check", status=1)
    assert "(shellcheck)" in out
    assert "no apt-get here" in out


def test_nothing_is_installed_without_root(machine: Machine) -> None:
    log = add_apt_get(machine, brings="shellcheck")
    assert "not root: run 'apt-get install shellcheck' as root" in machine.need(
        "check", status=1, user=NOBODY
    )
    assert not log.exists()


def test_a_python_in_a_home_directory_serves_the_checkout_but_not_the_service(
    tmp_path: Path,
) -> None:
    theirs = tmp_path / "python3"
    theirs.write_text(PYTHON_AT_HOME.format(python=sys.executable, itself=theirs))
    theirs.chmod(0o755)
    assert run("env", f"PYTHON={theirs}", ROOT / ".ci/find-python") == f"{theirs}\n"
    found = run("env", f"PYTHON={theirs}", ROOT / ".ci/find-python", "--system").strip()
    assert found != str(theirs)
    assert not run(found, "-c", "import sys; print(sys.base_prefix)").startswith(
        ("/root/", "/home/")
    )


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench", "build", "install", "clean"])
def test_make_knows_the_target_and_tells_of_it(target: str) -> None:
    run("make", "--dry-run", target)
    assert f"make {target} " in run("make", "--no-print-directory")


def test_the_proof_of_a_commit_fails_when_make_does(tmp_path: Path) -> None:
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text("check:\ntest:\n\t@read line || exit 3\n")
    done = subprocess.run(
        [tmp_path / ".ci/run"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stdout  # make's own status for a recipe that failed
