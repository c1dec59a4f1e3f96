"""Real processes whose main loop stands still, and one that was only stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from maglev0.runtime.watchdog import EXIT_STATUS
from tests.support.patience import PATIENCE_S

TIMEOUT_S = 1.0

# Each tells when it beat last, by CLOCK_MONOTONIC, which all processes share.
BEGIN = f"""
import os, select, sys, time
from maglev0.runtime.watchdog import Watchdog
watchdog = Watchdog({TIMEOUT_S})
watchdog.start()
for _ in range(4):
    time.sleep(watchdog.period_s / 2)
    last_beat_s = time.monotonic()
    watchdog.beat()
told = os.fdopen(int(sys.argv[1]), "w", buffering=1)
print(last_beat_s, file=told)
"""
SLEEPING = BEGIN + "def stuck_in_a_call(): time.sleep(1000)\nstuck_in_a_call()\n"
OUT_OF_DESCRIPTORS = (
    BEGIN
    + "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); time.sleep(1000)\n"
)
WITHOUT_STDERR = (
    BEGIN + "sys.stderr = None; time.sleep(1000)\n"
)  # what Python makes of a closed descriptor 2
WRITING = BEGIN + "while True: print('x' * 1000, flush=True)\n"
BEATING = (
    BEGIN + "while not select.select([0], [], [], watchdog.period_s / 2)[0]: watchdog.beat()\n"
)


@contextmanager
def running(program: str, stderr: int) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """The process, and when it beat last."""
    reading, writing = os.pipe()
    command = [sys.executable, "-c", program, str(writing)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, pass_fds=[writing]
    ) as process:
        os.close(writing)
        try:
            with os.fdopen(reading) as told:
                last_beat_s = float(told.readline())
            yield process, last_beat_s
        finally:
            process.kill()


def end_of(process: subprocess.Popen[bytes], last_beat_s: float) -> float:
    """How long after its last beat the process ended, with the status that says so."""
    assert process.wait(PATIENCE_S) == EXIT_STATUS
    return time.monotonic() - last_beat_s


def test_a_loop_stuck_in_a_call_ends_the_process_and_its_stacks_are_told() -> None:
    with running(SLEEPING, subprocess.PIPE) as (process, last_beat_s):
        elapsed_s = end_of(process, last_beat_s)
        assert process.stderr is not None
        first, *stacks = process.stderr.read().decode().splitlines()
    assert elapsed_s >= TIMEOUT_S
    assert first == "maglev0: the main loop has hung for 1.0 s: printing the stacks and exiting"
    assert any(line.endswith("in stuck_in_a_call") for line in stacks)


def test_a_loop_stuck_in_a_full_pipe_ends_the_process_though_the_stacks_fit_nowhere() -> None:
    with running(WRITING, subprocess.STDOUT) as (process, last_beat_s):
        elapsed_s = end_of(process, last_beat_s)
        assert process.stdout is not None
        assert set(process.stdout.read()) == set(b"x\n")
    assert elapsed_s >= TIMEOUT_S


@pytest.mark.parametrize(
    "program", [OUT_OF_DESCRIPTORS, WITHOUT_STDERR], ids=["out of descriptors", "without stderr"]
)
def test_a_stuck_process_ends_though_nothing_can_be_told(program: str) -> None:
    with running(program, subprocess.PIPE) as (process, last_beat_s):
        assert end_of(process, last_beat_s) >= TIMEOUT_S


def test_a_process_that_was_stopped_and_woken_goes_on() -> None:
    with running(BEATING, subprocess.PIPE) as (process, _last_beat_s):
        process.send_signal(signal.SIGSTOP)
        time.sleep(3 * TIMEOUT_S)
        process.send_signal(signal.SIGCONT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2 * TIMEOUT_S)
        _, errors = process.communicate(b"\n", timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, b"")


def test_a_loop_that_beats_now_and_then_goes_on() -> None:
    with running(BEATING, subprocess.PIPE) as (process, _last_beat_s):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3 * TIMEOUT_S)
        _, errors = process.communicate(b"\n", timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, b"")
