"""Real programs, good and bad."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from pathlib import Path

import pytest

from maglev0.runtime import program
from tests.support.patience import PATIENCE_S
from tests.support.services import hanging_directory, lives, script


def run(coroutine: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


async def ended(
    path: object,
    *arguments: str,
    variables: dict[str, str] | None = None,
    standard_input: bytes = b"",
) -> tuple[int, str]:
    """A program's exit status and last line."""
    running = program.start((str(path), *arguments), variables or {}, standard_input=standard_input)
    return await running.ended, running.last_line


def test_a_program_gets_its_arguments_variables_and_input_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/ours")
    monkeypatch.setenv("INHERITED", "yes")
    text = r'printf "%s|" "$#" "$@" "$MAGLEV0_VIP" "$INHERITED" "$NOTIFY_SOCKET" "$(cat)" "$(pwd)"'

    async def scenario() -> None:
        arguments = ("$HOME", "a  b", "'; exit 1", "", "-e")
        status, said = await ended(
            script(tmp_path, text),
            *arguments,
            variables={"MAGLEV0_VIP": "198.51.100.1"},
            standard_input=b"in\nput\n",
        )
        assert (status, said) == (0, "put|/|")
        assert await ended(
            script(tmp_path, text + r" | tr '\n' ' '"),
            *arguments,
            variables={"MAGLEV0_VIP": "v"},
            standard_input=b"in\nput\n",
        ) == (
            0,
            "5|$HOME|a  b|'; exit 1||-e|v|yes||in put|/|",
        )

    run(scenario())


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("exit 0", 0, ""),
        ("echo on its output; exit 3", 3, "on its output"),
        ("echo first >&2; echo last >&2; echo; printf '\\033\\t\\n \\n'; exit 1", 1, "last"),
        ("printf 'caf\\303\\251 \\377\\033[1m'; exit 1", 1, "café � [1m"),
        (
            f"printf %0{program.MAX_LINE_CHARACTERS + 1}d 0",
            0,
            "0" * (program.MAX_LINE_CHARACTERS - 1) + "…",
        ),
        ("head -c 1000000 /dev/zero; echo; echo end", 0, "end"),
        ('read line; echo "none: $?"', 0, "none: 1"),
        ("kill -SEGV $$", -signal.SIGSEGV, ""),
    ],
)  # fmt: skip
def test_what_became_of_a_program_is_told(
    tmp_path: Path, text: str, status: int, said: str
) -> None:
    async def scenario() -> None:
        assert await ended(script(tmp_path, text)) == (status, said)

    run(scenario())


def test_exit_statuses_are_told_in_words() -> None:
    assert [program.fate(status) for status in (3, -9, -34)] == [
        "exit status 3",
        "killed by SIGKILL",
        "killed by SIGRTMIN",
    ]
    assert program.fate(-40) == "killed by signal 40"


def test_what_cannot_be_run_says_so_by_its_status(tmp_path: Path) -> None:
    async def scenario() -> None:
        missing, _said = await ended(tmp_path / "missing")
        plain = tmp_path / "plain"
        plain.touch(0o644)
        refused, said = await ended(plain)
        assert (missing, refused) == (127, 126)
        assert "denied" in said.lower()

    run(scenario())


def test_a_flood_is_cut(tmp_path: Path) -> None:
    async def scenario() -> None:
        running = program.start((str(script(tmp_path, "yes; sleep 1000")),), {})
        assert await running.ended == -signal.SIGKILL
        assert running.flooded
        assert running.last_line.strip("y") == ""

    run(scenario())


def test_a_flood_that_nobody_listens_to_harms_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        running = program.start(
            (str(script(tmp_path, "head -c 100000000 /dev/zero; exit 5")),), {}, listen=False
        )
        assert await running.ended == 5
        assert (running.flooded, running.last_line) == (False, "")

    run(scenario())


def test_what_a_program_leaves_in_the_background_goes_with_it_and_is_not_waited_for(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        with lives(tmp_path) as processes:
            assert await ended(
                script(
                    tmp_path,
                    f"exec 9>{processes.path}; echo a >&9; sleep 1000 & sleep 1000 & echo done",
                )
            ) == (0, "done")
            await processes.ended()

    run(scenario())


def test_killing_it_kills_all_that_it_started(tmp_path: Path) -> None:
    """What ignores SIGTERM, and what has a process group of its own: timeout(1) makes one."""
    text = (
        "trap '' TERM; exec 9>{}; sleep 1000 & timeout 1000 sh -c 'trap \"\" TERM; sleep 1000 & "
        "echo a >&9; sleep 1000' & wait"
    )

    async def scenario() -> None:
        with lives(tmp_path) as processes:
            running = program.start((str(script(tmp_path, text.format(processes.path))),), {})
            await processes.begun()
            running.kill()
            assert await running.ended == -signal.SIGKILL
            await processes.ended()
            running.kill()

    run(scenario())


def test_a_program_on_a_file_system_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        with hanging_directory(tmp_path / "hanging") as directory:
            loop = asyncio.get_running_loop()
            begin_s = loop.time()
            running = program.start((str(directory / "program"),), {})
            assert loop.time() - begin_s < PATIENCE_S / 2
            await asyncio.wait([running.ended], timeout=0.2)
            assert not running.ended.done()
            await running.finish()
            assert running.ended.result() == -signal.SIGKILL

    run(scenario())


def test_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def scenario() -> None:
        await ended("/bin/true", standard_input=b"x")
        before = count()
        await ended("/bin/true", standard_input=b"x")
        monkeypatch.setattr(program, "_SHELL", ("/nowhere/sh",))
        for listen in (True, False):
            with pytest.raises(FileNotFoundError):
                program.start(("/bin/true",), {}, standard_input=b"x", listen=listen)
        assert count() == before

    run(scenario())


def test_the_descriptors_of_the_daemon_are_not_inherited(tmp_path: Path) -> None:
    async def scenario() -> None:
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        assert await ended(script(tmp_path, f"[ -e /proc/self/fd/{writing} ] || echo closed")) == (
            0,
            "closed",
        )
        os.close(reading)
        os.close(writing)

    run(scenario())
