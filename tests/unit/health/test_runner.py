"""Checks of real services: first results, rise and fall, hangs, floods, slow data, a pause, end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from maglev0.config.health_checks import CheckTiming, parse_check
from maglev0.health.runner import CheckRunner
from tests.support.patience import PATIENCE_S
from tests.support.services import (
    LOCAL,
    answering,
    hanging_directory,
    lives,
    repeating,
    running,
    script,
    serving,
    silent,
)

PATIENT = CheckTiming(
    0.1, PATIENCE_S, 2, 3
)  # for what needs no time-out, however busy the machine is
HASTY = CheckTiming(0.1, 0.1, 1, 1)  # for what hangs
OK = b"HTTP/1.1 200 OK\r\n\r\n"


def run(coroutine: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


class Told:
    """Checks, and what they told."""

    def __init__(self, timing: CheckTiming, *texts: str) -> None:
        self.checks = CheckRunner(
            LOCAL, [parse_check(text) for text in texts], timing, self._changed
        )
        self.history: list[tuple[bool, tuple[str, ...]]] = []
        self._news = asyncio.Event()

    def _changed(self) -> None:
        self.history.append((self.checks.healthy, self.problems))
        self._news.set()

    @property
    def problems(self) -> tuple[str, ...]:
        """Without how long."""
        return tuple(problem.rpartition(", for ")[0] for problem in self.checks.problems)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once it holds, as it does when something changed."""
        while not condition():
            self._news.clear()
            await self._news.wait()

    def running(self) -> AbstractAsyncContextManager[None]:
        return running(self.checks.run())


def test_without_checks_a_node_is_healthy_and_run_waits_for_ever() -> None:
    async def scenario() -> None:
        told = Told(PATIENT)
        assert (told.checks.healthy, told.checks.problems, told.checks.results) == (True, (), ())
        await told.checks.first()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(told.checks.run(), 0.01)
        assert told.history == []

    run(scenario())


def test_the_first_result_of_each_check_counts_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "maglev0")

    async def scenario() -> None:
        here, missing = tmp_path / "here", tmp_path / "missing"
        here.touch()
        async with serving(silent) as port:
            told = Told(PATIENT, f"tcp:{port}", f"file:{here}", f"file:{missing}")
            assert not told.checks.healthy
            await told.checks.first()
            await told.checks.first()
            assert not told.checks.healthy
            assert told.checks.problems == (f"file:{missing}: no such file or directory, for 0 s",)
            assert [
                (str(result.check), result.up, result.reason) for result in told.checks.results
            ] == [
                (f"tcp:{port}", True, ""),
                (f"file:{here}", True, ""),
                (f"file:{missing}", False, "no such file or directory"),
            ]
            assert all(0 < result.duration_s < PATIENCE_S for result in told.checks.results)
            assert sorted(caplog.messages) == [
                f"127.0.0.1: health check file:{here} is up",
                (
                    f"127.0.0.1: health check file:{missing} is down at the first run: no such "
                    "file or directory"
                ),
                f"127.0.0.1: health check tcp:{port} is up",
            ]

    run(scenario())


def test_a_check_falls_and_rises_after_so_many_results_in_a_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "maglev0")
    path, looks = tmp_path / "web.up", tmp_path / "looks"
    program = script(tmp_path, f"echo look >>{looks}; [ -e {path} ] && exit 0; echo gone; exit 1")

    def taken() -> int:
        return len(looks.read_text().splitlines())

    async def scenario() -> None:
        path.touch()
        told = Told(PATIENT, f"exec:{program}")
        async with told.running():
            await told.until(lambda: told.checks.healthy)
            path.unlink()
            before = taken()
            await told.until(lambda: not told.checks.healthy)
            # One look may have been under way when the file went.
            assert PATIENT.fall <= taken() - before <= PATIENT.fall + 1
            assert told.problems == (f"exec:{program}: exit status 1: gone",)
            path.touch()
            before = taken()
            await told.until(lambda: told.checks.healthy)
            assert PATIENT.rise <= taken() - before <= PATIENT.rise + 1
        assert [healthy for healthy, _problems in told.history] == [True, False, True]
        by_level = [
            (record.levelname, record.getMessage())
            for record in caplog.records
            if record.name.startswith("maglev0")
        ]
        up, *once, down, again = [
            entry for entry in by_level if "exit status" in entry[1] or " up" in entry[1]
        ]
        assert up == ("INFO", f"127.0.0.1: health check exec:{program} is up")
        assert set(once) == {
            ("DEBUG", f"127.0.0.1: health check exec:{program}: exit status 1: gone")
        }
        assert down == (
            "WARNING",
            (
                f"127.0.0.1: health check exec:{program} is down after 3 bad results in a row: "
                "exit status 1: gone"
            ),
        )
        assert again[0] == "INFO"
        assert again[1].startswith(f"127.0.0.1: health check exec:{program} is up again after ")

    run(scenario())


def test_another_reason_is_news_and_the_same_is_not(tmp_path: Path) -> None:
    program = script(tmp_path, f"[ -e {tmp_path}/other ] && exit 2; exit 1")

    async def scenario() -> None:
        told = Told(PATIENT, f"exec:{program}")
        async with told.running():
            await told.until(lambda: len(told.history) == 1)
            (tmp_path / "other").touch()
            await told.until(lambda: len(told.history) == 2)
            (tmp_path / "other").unlink()
            await told.until(lambda: len(told.history) == 3)
        reasons = [problems[0].rpartition(": ")[2] for _healthy, problems in told.history]
        assert reasons == ["exit status 1", "exit status 2", "exit status 1"]

    run(scenario())


def test_what_never_comes_to_an_end_is_down_after_the_time_out(tmp_path: Path) -> None:
    """Servers that are silent, drip or have a full backlog; programs that flood or hang; a file."""

    async def scenario() -> None:
        head = b"HTTP/1.1 200 OK\r\n"
        async with (
            serving(silent) as mute,
            serving(repeating(b"", b"x", 0.01)) as line,
            serving(repeating(head, b"a:\r\n", 0.05)) as drip,
            full() as busy,
        ):
            hanging = [
                f"http://:{mute}/",
                f"https://:{mute}/",
                f"http://:{line}/",
                f"http://:{drip}/",
                f"tcp:{busy}",
                "exec:/bin/sleep 1000",
            ]
            told = Told(HASTY, *hanging, "exec:/usr/bin/yes", f"file:{tmp_path}")
            loop = asyncio.get_running_loop()
            async with told.running():
                begin_s = loop.time()
                await told.checks.first()
                assert loop.time() - begin_s < PATIENCE_S / 2
            *slow, flood, fine = told.checks.results
            assert [result.reason for result in slow] == len(hanging) * ["no result within 0.1 s"]
            assert flood.reason in ("it printed more than 1048576 bytes", "no result within 0.1 s")
            assert fine.up or fine.reason.startswith(
                "no result"
            )  # a machine that has other things to do

    run(scenario())


@asynccontextmanager
async def full() -> AsyncIterator[int]:
    """A port whose server does not accept, with as many connections waiting as may."""
    with socket.socket() as server:
        server.bind((str(LOCAL), 0))
        server.listen(0)
        port: int = server.getsockname()[1]
        with socket.create_connection((str(LOCAL), port), PATIENCE_S):
            yield port


def test_what_hangs_in_the_kernel_does_not_pile_up(tmp_path: Path) -> None:
    """A thread that hangs in a silent file system cannot be ended: no second one is started."""

    async def scenario() -> None:
        with hanging_directory(tmp_path / "hanging") as directory:
            before = set(threading.enumerate())
            told = Told(HASTY, f"file:{directory}/web.up")
            async with told.running():
                await told.until(lambda: len(told.history) == 2)
                assert [problems[0].rpartition(": ")[2] for _healthy, problems in told.history] == [
                    "no result within 0.1 s",
                    "an earlier probe has not ended yet",
                ]
                await asyncio.sleep(3 * HASTY.interval_s)  # nothing is to happen
                assert len(set(threading.enumerate()) - before) == 1
        assert not told.checks.healthy

    run(scenario())


def test_a_program_that_hangs_is_killed_before_it_is_run_again(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    # Each run looks whether one before it still lives.
    look = (
        f"for pid in $(ls {marks}); do [ -e /proc/$pid ] && touch {tmp_path}/two; done; touch "
        f"{marks}/$$"
    )

    async def scenario() -> None:
        with lives(tmp_path) as processes:
            text = (
                f"{look}; trap '' TERM; exec 9>{processes.path}; echo a >&9; sleep 1000 & sleep "
                "1000"
            )
            told = Told(HASTY, f"exec:{script(tmp_path, text)}")
            async with told.running():
                for _run in range(4):
                    await processes.begun()
            await processes.ended()
        assert not (tmp_path / "two").exists()
        assert told.history == [(False, (f"exec:{tmp_path}/program: no result within 0.1 s",))]

    run(scenario())


def test_no_process_is_left_when_checking_is_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        with lives(tmp_path) as processes:
            program = script(
                tmp_path,
                f"trap '' TERM; exec 9>{processes.path}; echo a >&9; timeout 1000 sleep 1000",
            )
            async with Told(PATIENT, f"exec:{program}").running():
                await processes.begun()
            await processes.ended()

    run(scenario())


PAUSED = """
import asyncio, sys
from ipaddress import IPv4Address
from maglev0.health.runner import CheckRunner
from maglev0.config.health_checks import parse_check, CheckTiming

async def main():
    changed = lambda: print(checks.healthy, checks.problems, flush=True)
    check, timing = parse_check(sys.argv[1]), CheckTiming(1, 1, 1, 1)
    checks = CheckRunner(IPv4Address("127.0.0.1"), [check], timing, changed)
    await checks.run()

asyncio.run(main())
"""


@pytest.mark.parametrize("answers_in_the_pause", [True, False])
def test_a_pause_of_the_process_is_no_bad_result(answers_in_the_pause: bool) -> None:
    """The server answers in time of the process; by the clock the timeout has passed (fall = 1)."""
    requests: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        may_answer = asyncio.Event()
        requests.put_nowait(may_answer)
        await may_answer.wait()
        writer.write(OK)
        await writer.drain()

    async def scenario() -> None:
        async with serving(handler) as port:
            command = (sys.executable, "-c", PAUSED, f"http://:{port}/")
            process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
            assert process.stdout is not None
            try:
                (await requests.get()).set()
                assert await process.stdout.readline() == b"True ()\n"
                may_answer = await requests.get()
                process.send_signal(signal.SIGSTOP)
                if answers_in_the_pause:
                    may_answer.set()
                await asyncio.sleep(1.2)
                process.send_signal(signal.SIGCONT)
                await asyncio.sleep(0.1)
                may_answer.set()
                (await requests.get()).set()  # one more look: what was said of the pause is said
            finally:
                process.kill()
            assert await process.stdout.read() == b""
            await process.wait()

    run(scenario())


def test_a_pause_right_before_the_time_out_is_no_bad_result() -> None:
    timing = CheckTiming(0.5, 0.5, 1, 1)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.9 * timing.timeout_s)
        stand_still(timing.timeout_s)
        await asyncio.sleep(0.1 * timing.timeout_s)
        await answering(OK)(reader, writer)

    async def scenario() -> None:
        async with serving(handler) as port:
            told = Told(timing, f"http://:{port}/")
            await told.checks.first()
            assert told.checks.healthy

    run(scenario())


def stand_still(seconds: float) -> None:
    """Let the whole loop stand, as a pause of the process does."""
    time.sleep(seconds)


def test_a_check_that_is_up_has_its_duration_measured() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        await answering(OK)(reader, writer)

    async def scenario() -> None:
        async with serving(slow) as port:
            told = Told(PATIENT, f"http://:{port}/")
            await told.checks.first()
            (result,) = told.checks.results
            assert result.up
            assert 0.05 <= result.duration_s < PATIENCE_S

    run(scenario())
