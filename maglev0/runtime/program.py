"""Runs programs of the operator, health checks and --notify, so that none can harm the daemon.

Each runs in a session of its own, so that it is killed with all its children. A child that leaves
the session on purpose, as a service in the background does, lives on. The loop never waits for a
program, not even for its start: it starts a local shell, which executes the program, because the
program may lie on a file system that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence

from maglev0.core.text import blanked, shortened
from maglev0.runtime.waiting import in_thread

MAX_OUTPUT_BYTES = 1 << 20  # reading so much takes 1 ms; a program that prints more is killed
MAX_LINE_CHARACTERS = 200
END_TIMEOUT_S = 1.0  # a killed process is gone within milliseconds, unless it hangs in the kernel
# The exit statuses of a shell for a program that is missing or not executable (POSIX, sh).
CANNOT_RUN = (126, 127)

# The shell passes the arguments on as they are.
_SHELL = ("/bin/sh", "-c", 'exec "$0" "$@"')
_TAIL_BYTES = 4096
_READ_BYTES = 1 << 16  # what a pipe holds
_KILL_ROUNDS = 5  # each finds what was forked during the round before
# The daemon's own variables (sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3)).
_OURS = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}
)


class Program:
    """A program that runs; `ended` is a future with its exit status, -N for signal N.

    When the program ends, its remaining process group is killed. `ended` raises RuntimeError, and
    the program is killed, if no thread can be started to wait for it.
    """

    def __init__(self, process: subprocess.Popen[bytes], output: int | None) -> None:
        self._process = process
        self._output = None if output is None else _Output(output, self.kill)
        self.ended = asyncio.ensure_future(self._end())

    def kill(self) -> None:
        """Kill it and every process of its session; harmless after its end."""
        if self.ended.done():
            return
        self._signal_group()
        met: set[int] = set()
        for _round in range(_KILL_ROUNDS):
            found = set(_session(self._process.pid)) - met
            if not found:
                return
            for pid in found:
                # The kernel does not reuse a pid at once: it goes through all others first.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            met |= found

    async def finish(self) -> None:
        """Kill it and wait until it is gone, at most `END_TIMEOUT_S`."""
        self.kill()
        await asyncio.wait([self.ended], timeout=END_TIMEOUT_S)

    @property
    def flooded(self) -> bool:
        """Whether it printed more than `MAX_OUTPUT_BYTES`, and was killed for that."""
        return self._output is not None and self._output.is_flood

    @property
    def last_line(self) -> str:
        """The last non-blank line of its output so far, at most `MAX_LINE_CHARACTERS`."""
        text = b"" if self._output is None else self._output.tail
        lines = [blanked(line).strip() for line in text.decode(errors="replace").splitlines()]
        return shortened(next((line for line in reversed(lines) if line), ""), MAX_LINE_CHARACTERS)

    async def _end(self) -> int:
        pid = self._process.pid
        try:
            # No other process, group or session can get its pid before it is reaped.
            await in_thread(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT))
        finally:
            self._signal_group()
            if self._output is not None:
                self._output.close()
        return self._process.wait()

    def _signal_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


class _Output:
    """Reads the output of a program and keeps the end of it."""

    def __init__(self, descriptor: int, flooded: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._flooded = flooded
        self._bytes = 0
        self.tail = b""
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    @property
    def is_flood(self) -> bool:
        return self._bytes > MAX_OUTPUT_BYTES

    def close(self) -> None:
        """Read what is there, then close."""
        while self._read():
            pass
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> bool:
        """Read once; returns whether there may be more."""
        if self.is_flood:
            return False
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        self._bytes += len(data)
        self.tail = (self.tail + data)[-_TAIL_BYTES:]
        if not data or self.is_flood:
            asyncio.get_running_loop().remove_reader(self._descriptor)
        if self.is_flood:
            self._flooded()
        return bool(data)


def start(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    *,
    standard_input: bytes = b"",
    listen: bool = True,
) -> Program:
    """Start a program by its full path, with `variables` added to our environment.

    Without `listen` its output is discarded. Raises OSError if this machine can start no process.
    A program that cannot be run ends with an exit status of `CANNOT_RUN`.
    """
    with contextlib.ExitStack() as ours:
        reading, writing = os.pipe() if listen else (None, subprocess.DEVNULL)
        if reading is not None:
            ours.callback(os.close, writing)
            failed = ours.enter_context(contextlib.ExitStack())
            failed.callback(os.close, reading)
        process = subprocess.Popen(
            [*_SHELL, *arguments],
            stdin=ours.enter_context(_standard_input(standard_input)),
            stdout=writing,
            stderr=writing,
            env={name: value for name, value in os.environ.items() if name not in _OURS}
            | dict(variables),
            cwd="/",
            start_new_session=True,
        )
        if reading is not None:
            failed.pop_all()
        return Program(process, reading)


@contextlib.contextmanager
def _standard_input(data: bytes) -> Iterator[int]:
    """A file in memory with the data, or /dev/null without data.

    A pipe would have to be written while the program reads.
    """
    if not data:
        yield subprocess.DEVNULL
        return
    with os.fdopen(os.memfd_create("maglev0"), "wb", buffering=0) as file:
        file.write(data)
        file.seek(0)
        yield file.fileno()


def fate(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {-status}"


def _session(leader: int) -> Iterator[int]:
    """The processes of a session, also in process groups of their own, as timeout(1) makes."""
    for name in os.listdir("/proc"):  # noqa: PTH208  a thousand Path objects cost more
        if name.isdigit():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(int(name)) == leader:
                    yield int(name)
