"""Completion: bash judges its own, zsh and fish theirs where they are installed."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from maglev0.operator.commands import COMMANDS
from maglev0.operator.shell import completion, help_text, manual
from tests.support.patience import PATIENCE_S

ASK = """source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_maglev0
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "maglev0.bash"
    path.write_text(written("bash"))
    return path


def written(shell: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "maglev0", "completion", shell],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.stderr == ""
    return done.stdout


def offered(script: Path, *words: str) -> list[str]:
    """What bash offers after `maglev0`, for the last of the words that readline makes of a line."""
    command: list[str | Path] = ["bash", "--norc", "-uc", ASK, "bash", script, "maglev0", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stderr == ""
    return done.stdout.split()


def test_subcommands_and_flags(script: Path) -> None:
    daemon = [
        f"{option.names[-1]}=" if option.value else option.names[-1]
        for option in help_text.daemon().options
    ]
    assert {*offered(script, "")} == {*COMMANDS, *daemon, "-v", "-h"}
    assert offered(script, "st") == ["status"]
    assert offered(script, "--zk-") == [
        "--zk-loss=",
        "--zk-auth=",
        "--zk-ca=",
        "--zk-cert=",
        "--zk-key=",
    ]
    assert offered(script, "--my-id", "=", "1", "--dry") == ["--dry-run"]
    assert offered(script, "status", "--js") == ["--json"]
    assert "--my-id=" not in offered(script, "status", "")
    assert offered(script, "completion", "") == ["bash", "zsh", "fish", "-h", "--help"]
    assert offered(script, "man", "op") == ["operations"]
    assert {*offered(script, "man", "")} == {*manual.topics(), "maglev0", "--roff", "-h", "--help"}


def test_values(script: Path, tmp_path: Path) -> None:
    for flag, choices in completion.CHOICES.items():
        assert offered(script, flag, "=") == offered(script, flag, "") == [*choices]
    assert offered(script, "--xdp", "=", "na") == ["native"]
    assert offered(script, "lab", "--dataplane", "=", "nf") == ["nftables"]
    assert "lo" in offered(script, "--interface", "=")
    assert offered(script, "--my-id", "=") == []
    (tmp_path / "mine.toml").touch()
    assert offered(script, "--config", "=", f"{tmp_path}/mi") == [f"{tmp_path}/mine.toml"]


@contextmanager
def terminal(*command: str | Path) -> Iterator[int]:
    """A program on a terminal of its own; yields our end of it."""
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield ours
        finally:
            process.kill()
            os.close(ours)


def read_until(descriptor: int, pattern: bytes) -> None:
    """Wait for what a terminal shows; the test's own time-out ends it."""
    seen = b""
    while not re.search(pattern, seen):
        seen += os.read(descriptor, 4096)


def test_a_bash_at_a_terminal_completes_what_is_typed(script: Path) -> None:
    with terminal("bash", "--noprofile", "--rcfile", script, "-i") as bash:
        read_until(bash, rb"[$#] $")
        for typed, shown in (
            (b"maglev0 sta\t", b"maglev0 status "),
            (b"--js\t", b"--json "),
            (b"\x15maglev0 --xdp=na\t", b"--xdp=native "),
        ):
            os.write(bash, typed)
            read_until(bash, re.escape(shown))


@pytest.mark.parametrize(
    ("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")]
)
def test_the_shell_can_read_it(shell: str, check: str, tmp_path: Path) -> None:
    path = tmp_path / f"maglev0.{shell}"
    path.write_text(written(shell))
    names = {
        flag
        for help_ in help_text.commands().values()
        for option in help_.options
        for flag in option.names
        if flag.startswith("--")
    }
    text = path.read_text()
    assert " ".join([*manual.topics(), "maglev0"]) in text
    assert all((f"-l {name[2:]} " if shell == "fish" else name) in text for name in names)
    if shutil.which(shell):  # no machine has them all, and no user needs more than one
        assert (
            subprocess.run(
                [shell, check, path], check=True, capture_output=True, timeout=PATIENCE_S
            ).stderr
            == b""
        )
