"""A process is stopped at exactly the system call that was chosen."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from maglev0.lab.chaos.stopper import busy_threads, stopped_at, threads
from maglev0.lab.errors import LabError
from maglev0.lab.testbed.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kernel

# One line, that is one system call to write, every millisecond; a second thread does the same to
# another stream.
SCRIPT = """
import os, threading, time
def count(stream):
    while True:
        os.write(stream, b"%d\\n" % stream)
        time.sleep(0.001)
threading.Thread(target=count, args=(1,), daemon=True).start()
count(2)
"""


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Process]:
    process = Process("counting", [sys.executable, "-c", SCRIPT], tmp_path / "log")
    process.wait_line("1\n(.*\n)*2\n")
    yield process
    process.kill()


@pytest.mark.parametrize("which", [0, 1])
def test_nothing_of_the_process_moves_while_it_is_stopped(counting: Process, which: int) -> None:
    assert busy_threads(counting.pid, 0.2) == threads(counting.pid)
    thread = threads(counting.pid)[which]
    for count in (1, 2, 7):
        with stopped_at(counting.pid, thread, count, timeout_s=5.0) as call:
            assert call.isdigit()
            before = counting.output()
            time.sleep(0.05)
            assert counting.output() == before
        counting.wait_line(rf"\A(.*\n){{{before.count(chr(10)) + 10}}}")


def test_a_thread_that_makes_too_few_calls_is_let_go(counting: Process) -> None:
    with (
        pytest.raises(LabError, match="in time"),
        stopped_at(counting.pid, counting.pid, 1_000_000, timeout_s=0.2),
    ):
        pass
    counting.wait_line(rf"\A(.*\n){{{counting.output().count(chr(10)) + 10}}}")
