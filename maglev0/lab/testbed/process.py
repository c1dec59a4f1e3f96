"""The lab's programs: started in a namespace, logged to a file, awaited by what they print."""

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
    """The command that runs one of our modules with this very interpreter."""
    return [sys.executable, "-m", module, *arguments]


class Process:
    """One running program; its output is appended to the file `log`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        in_namespace: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `command`; errors call it `name`, and `environment` is added to that of this process."""
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
                start_new_session=True,  # a Ctrl-C in the terminal is for the lab alone
            )
        self.pid = self._popen.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._popen.poll() is not None

    def output(self) -> str:
        """What this run has printed so far, whole lines only."""
        with self.log.open("rb") as file:
            file.seek(self._start)
            data = file.read()
        return data[: data.rfind(b"\n") + 1].decode(errors="replace")

    def wait_line(self, pattern: str, timeout_s: float = START_TIMEOUT_S) -> re.Match[str]:
        """The first match of `pattern` in this run's output.

        Raises LabError when the program ends or the time passes before.
        """
        expression = re.compile(pattern, re.MULTILINE)
        return wait_for(
            lambda: expression.search(self.output()),
            [self],
            timeout_s,
            f"line {pattern!r} of {self.name}",
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, to nobody else even if it has ended."""
        self._popen.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Its exit status, negative for a signal; raises LabError if it does not end in time."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LabError(
                f"waiting for {self.name} (process {self.pid}): it did not end within {timeout_s} s"
            ) from error

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Ask it to end by SIGTERM and wait; its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def kill(self) -> int:
        """End it by SIGKILL and wait; harmless where it has ended."""
        self.signal(signal.SIGKILL)
        return self.wait()


def wait_for(
    condition: Callable[[], T | None],
    processes: Sequence[Process],
    timeout_s: float,
    what: str,
    ask_s: float | None = None,
) -> T:
    """The first value but None of `condition`.

    It is called when one of the processes prints something, and every `ask_s` seconds if given.

    Raises LabError when one of the processes ends, or after `timeout_s`; `what` names the thing waited for.
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
                    f"waiting for {what}: {ended.name} ended, its last words: {_last_words(ended)}"
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
        raise LabError(f"waiting for {what}: nothing in time")
    if growth in readable:
        os.read(growth, 65536)


def _last_words(process: Process) -> str:
    lines = process.output().splitlines()
    return lines[-1] if lines else "none"


def environment_with(more: Mapping[str, str]) -> dict[str, str]:
    """Add `more` to the environment of this process, and this package to the Python path.

    The package comes first on the path: the lab of a checkout need not be installed.
    """
    ours = str(Path(maglev0.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    path = ours if inherited is None else f"{ours}{os.pathsep}{inherited}"
    return os.environ | {"PYTHONPATH": path} | dict(more)
