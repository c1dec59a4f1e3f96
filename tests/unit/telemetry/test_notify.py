"""Real programs that run for events, good and bad."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from maglev0.telemetry import notify
from maglev0.telemetry.notify import MAX_WAITING, Notifier, StateChange
from maglev0.telemetry.sink import DaemonSink
from tests.support.configs import config
from tests.support.patience import PATIENCE_S
from tests.support.services import Lives, lives, running, script

EVENT = StateChange(
    IPv4Address("198.51.100.1"), 3, "active", "joining", "took its share, at once", 1700000000.5
)


def run(coroutine: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


async def lines(path: Path, count: int) -> list[str]:
    """The lines of a file, once there are so many."""
    while len(found := present_lines(path)) < count:  # noqa: ASYNC110  no event tells
        await asyncio.sleep(0.01)
    return found


def present_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def numbered(number: int) -> StateChange:
    return replace(EVENT, state=str(number))


def hanging(directory: Path, processes: Lives) -> str:
    """A program that writes its event down, ignores SIGTERM and hangs, as does its child."""
    return str(
        script(
            directory,
            f"trap '' TERM; exec 9>{processes.path}; echo $2 >>{directory}/told; "
            "sleep 1000 & echo a >&9; sleep 1000",
        )
    )


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "maglev0")


def test_the_program_is_told_by_arguments_and_on_its_input(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        notifier = Notifier(
            str(
                script(
                    tmp_path,
                    f'printf "%s|" "$#" "$@" "$MAGLEV0_VIP" >{tmp_path}/arguments; '
                    f"cat >{tmp_path}/input",
                )
            )
        )
        async with running(notifier.run()):
            notifier.notify(EVENT)
            await notifier.flush(PATIENCE_S)
        assert (tmp_path / "arguments").read_text() == "3|198.51.100.1|active|joining|198.51.100.1|"
        assert json.loads((tmp_path / "input").read_text()) == {
            "vip": "198.51.100.1",
            "member_id": 3,
            "state": "active",
            "former": "joining",
            "reason": "took its share, at once",
            "time": 1700000000.5,
        }
        assert caplog.messages == []

    run(scenario())


def test_events_are_delivered_in_order_one_at_a_time(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        f"mkdir {tmp_path}/busy || echo two >>{tmp_path}/told; echo $2 >>{tmp_path}/told; "
        f"rmdir {tmp_path}/busy",
    )

    async def scenario() -> None:
        notifier = Notifier(str(program))
        async with running(notifier.run()):
            for number in range(10):
                notifier.notify(numbered(number))
                await asyncio.sleep(0)
            await notifier.flush(PATIENCE_S)
            notifier.notify(numbered(10))
            await notifier.flush(PATIENCE_S)
        assert (tmp_path / "told").read_text().split() == [str(number) for number in range(11)]

    run(scenario())


def test_a_program_that_hangs_is_killed_with_its_children_and_the_next_event_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.5)

    async def scenario() -> None:
        with lives(tmp_path) as processes:
            notifier = Notifier(hanging(tmp_path, processes))
            for number in range(2):
                notifier.notify(numbered(number))
            async with running(notifier.run()):
                await notifier.flush(PATIENCE_S)
            await processes.ended()
        assert (tmp_path / "told").read_text().split() == ["0", "1"]
        assert caplog.messages == [
            f"{tmp_path}/program killed: it did not end within 0.5 s for event {number}"
            for number in range(2)
        ]

    run(scenario())


def test_a_program_that_cannot_be_run_or_fails_is_one_line_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        for path in (
            tmp_path / "missing",
            tmp_path,
            script(tmp_path, "yes; exit 7"),
            script(tmp_path, "head -c 10000000 /dev/zero; exit 7"),
        ):
            notifier = Notifier(str(path))
            notifier.notify(EVENT)
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await notifier.flush(PATIENCE_S)
        why = "for event active: is it there, and executable?"
        assert caplog.messages[:2] == [
            f"cannot run {tmp_path}/missing {why}",
            f"cannot run {tmp_path} {why}",
        ]
        assert caplog.messages[-1] == f"{tmp_path}/program failed for event active: exit status 7"
        assert {record.levelname for record in caplog.records} == {"WARNING"}

    run(scenario())


def test_a_queue_that_is_full_loses_the_oldest_and_logs_that_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(script(tmp_path, f"echo $2 >>{tmp_path}/told"))

    async def scenario() -> None:
        notifier = Notifier(path)
        for number in range(MAX_WAITING + 3):
            notifier.notify(numbered(number))
        await notifier.flush(PATIENCE_S)
        assert (tmp_path / "told").read_text().split() == [
            str(number) for number in range(3, MAX_WAITING + 3)
        ]
        assert caplog.messages == [
            f"more than {MAX_WAITING} events wait for {path}: dropping the oldest"
        ]
        # Once it has caught up, the next loss is logged again.
        for number in range(MAX_WAITING + 1):
            notifier.notify(numbered(number))
        assert len(caplog.messages) == 2

    run(scenario())


def test_a_flush_ends_when_time_is_up_and_logs_what_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        with lives(tmp_path) as processes:
            notifier = Notifier(hanging(tmp_path, processes))
            for number in range(3):
                notifier.notify(numbered(number))
            async with running(notifier.run()):
                await processes.begun()
                await notifier.flush(0.1)
            await processes.ended()
        assert caplog.messages == [
            f"2 events not delivered: {tmp_path}/program did not take them within 0.1 s"
        ]

    run(scenario())


def test_no_process_is_left_when_notifying_is_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        with lives(tmp_path) as processes:
            notifier = Notifier(hanging(tmp_path, processes))
            async with running(notifier.run()):
                notifier.notify(EVENT)
                await processes.begun()
            await processes.ended()

    run(scenario())


def test_without_a_program_events_are_dropped_and_run_waits_for_ever() -> None:
    async def scenario() -> None:
        notifier = Notifier(None)
        for _ in range(MAX_WAITING + 1):
            notifier.notify(EVENT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(notifier.run(), 0.01)
        await notifier.flush(PATIENCE_S)

    run(scenario())


def test_another_program_gets_the_waiting_events_and_the_one_that_runs_finishes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a reload with another --notify; a program that was killed would write no end."""
    directories = tmp_path / "first", tmp_path / "second"
    for directory in directories:
        directory.mkdir()
    go = tmp_path / "go"
    os.mkfifo(go)
    first = script(
        directories[0],
        f"echo begin $2 >>{tmp_path}/told; read line <{go}; echo end $2 >>{tmp_path}/told",
    )
    second = script(directories[1], f"echo second $2 >>{tmp_path}/told")

    async def scenario() -> None:
        sink = DaemonSink(config(f"--notify={first}"))
        async with running(sink.run()):
            for number in range(3):
                sink.changed(numbered(number))
            await lines(tmp_path / "told", 1)
            sink.reload(config(f"--notify={second}"))
            sink.changed(numbered(3))
            await asyncio.sleep(0)
            descriptor = os.open(go, os.O_RDWR)
            os.write(descriptor, b"go\n")
            told = await lines(tmp_path / "told", 5)
            os.close(descriptor)
        assert told == ["begin 0", "end 0", "second 1", "second 2", "second 3"]

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert caplog.messages == []


def test_events_that_wait_when_the_program_is_removed_are_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        notifier = Notifier("/bin/true")
        for number in range(3):
            notifier.notify(numbered(number))
        notifier.use(None)
        await notifier.flush(PATIENCE_S)

    run(scenario())
    assert caplog.messages == [
        "3 events dropped: --notify=/bin/true was removed before they were delivered"
    ]
