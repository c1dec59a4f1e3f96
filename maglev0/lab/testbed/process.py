"""Starts the lab's programs in a namespace, logs them to files and waits for their output."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import maglev0
from maglev0.lab.errors import LabError
from maglev0.lab.testbed import libc, namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

# A guard: Python programs need 0.2 s to start on an idle machine, a JVM 0.5 s.
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with the current interpreter."""
    return [sys.executable, "-m", module, *arguments]


class Process:
    """One program; it appends its output to the file `log`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        in_namespace: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `command`; `name` is for error texts, `environment` is added to this process's."""
        self.name = name
        self.log = log
        prefix = (
            []
            if in_namespace is None
            else ["nsenter", f"--net={namespace.path_of(in_namespace)}", "--"]
        )
        with log.open("ab") as output:
            self._start = output.tell()
            self._popen = subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment_with(environment or {}),
                start_new_session=True,  # only the lab receives the terminal's Ctrl-C
            )
        self.pid = self._popen.pid

    @property
    def ended(self) -> bool:
        """Whether the program has ended."""
        return self._popen.poll() is not None

    def output(self) -> str:
        """The whole lines that this run has printed so far."""
        with self.log.open("rb") as file:
            file.seek(self._start)
            data = file.read()
        return data[: data.rfind(b"\n") + 1].decode(errors="replace")

    def wait_line(self, pattern: str, timeout_s: float = START_TIMEOUT_S) -> re.Match[str]:
        """The first match of `pattern` in this run's output.

        Raises LabError when the program ends first, or after `timeout_s`.
        """
        expression = re.compile(pattern, re.MULTILINE)
        return wait_for(
            lambda: expression.search(self.output()),
            [self],
            timeout_s,
            f"line {pattern!r} of {self.name}",
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; does nothing where the program has ended."""
        self._popen.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait for the end; returns the exit status, negative for a signal.

        Raises LabError after `timeout_s`.
        """
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LabError(
                f"waiting for {self.name} (process {self.pid}): it did not end within {timeout_s} s"
            ) from error

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Send SIGTERM, wait, and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> int:
        """Send SIGKILL, wait, and return the exit status; an ended program is accepted."""
        self.signal(signal.SIGKILL)
        return self.wait()


def wait_for(
    condition: Callable[[], T | None],
    processes: Sequence[Process],
    timeout_s: float,
    what: str,
    ask_s: float | None = None,
) -> T:
    """Wait until `condition` returns a value other than None, and return that value.

    `condition` is called when one of the processes prints, and every `ask_s` seconds if given.
    Raises LabError when one of the processes ends, or after `timeout_s`; `what` names the awaited
    event in the error text.
    """
    deadline_s = time.monotonic() + timeout_s
    growth = libc.watch_growth([str(process.log) for process in processes])
    exits = [os.pidfd_open(process.pid) for process in processes if not process.ended]
    try:
        while True:
            ended = next((process for process in processes if process.ended), None)
            value = condition()
            if value is not None:
                return value
            if ended is not None:
                raise LabError(
                    f"waiting for {what}: {ended.name} ended, last line: {_last_line(ended)}"
                )
            _sleep_until(growth, exits, deadline_s, ask_s, what)
    finally:
        for descriptor in [growth, *exits]:
            os.close(descriptor)


def _sleep_until(
    growth: int, exits: list[int], deadline_s: float, ask_s: float | None, what: str
) -> None:
    remaining_s = max(0.0, deadline_s - time.monotonic())
    readable, _, _ = select.select(
        [growth, *exits], [], [], remaining_s if ask_s is None else min(ask_s, remaining_s)
    )
    if not readable and time.monotonic() >= deadline_s:
        raise LabError(f"waiting for {what}: deadline exceeded")
    if growth in readable:
        os.read(growth, 65536)


def _last_line(process: Process) -> str:
    lines = process.output().splitlines()
    return lines[-1] if lines else "none"


def environment_with(more: Mapping[str, str]) -> dict[str, str]:
    """Add `more` to the environment of this process, and this package to the Python path.

    The package comes first on the path, so that a checkout's lab runs without an installation.
    """
    ours = str(Path(maglev0.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    path = ours if inherited is None else f"{ours}{os.pathsep}{inherited}"
    return os.environ | {"PYTHONPATH": path} | dict(more)
