from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from maglev0.lab.errors import LabError
from maglev0.lab.testbed.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Shell = Callable[[str], Process]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    started: list[Process] = []

    def start(script: str) -> Process:
        started.append(Process("script", ["sh", "-c", script], tmp_path / "log"))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_a_line_is_seen_as_soon_as_it_is_whole(shell: Shell) -> None:
    process = shell("printf 'numb'; sleep 0.3; echo 'er 17'; exec sleep 60")
    assert process.wait_line(r"^number (\d+)$")[1] == "17"


def test_output_of_an_earlier_run_does_not_count(shell: Shell) -> None:
    shell("echo first").wait()
    second = shell("echo second")
    second.wait()
    assert second.output() == "second\n"


def test_waiting_fails_when_the_program_ends(shell: Shell) -> None:
    with pytest.raises(LabError, match="ended, last line: broken"):
        shell("echo broken; exit 3").wait_line("never said", timeout_s=60)


def test_waiting_is_bounded(shell: Shell) -> None:
    with pytest.raises(LabError, match="deadline exceeded"):
        shell("exec sleep 60").wait_line("never said", timeout_s=0.1)


def test_exit_statuses_are_returned(shell: Shell) -> None:
    assert shell("exec sleep 60").stop() == -signal.SIGTERM
    assert shell("exec sleep 60").kill() == -signal.SIGKILL
    assert shell("exit 3").wait() == 3


def test_a_program_that_does_not_end_is_an_error(shell: Shell) -> None:
    process = shell("trap '' TERM; echo deaf; while :; do sleep 1; done")
    process.wait_line("deaf")
    with pytest.raises(LabError, match="did not end"):
        process.stop(timeout_s=0.2)
