"""Programs of the operator's, run so that none can harm the daemon: checks and the one that is told of events.

Each runs in a session of its own, so that it can be killed with all that it started; what leaves the session on purpose, as a service does that puts
itself into the background, is on its own. The daemon never waits for one on its loop, not even for the start: a shell is started, which is local, and
turns itself into the program, which may lie on a file system that hangs.
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

MAX_OUTPUT_BYTES = 1 << 20  # reading so much takes 1 ms; who prints more is killed
MAX_LINE_CHARACTERS = 200
END_TIMEOUT_S = 1.0  # a killed process is gone within milliseconds, unless it hangs in the kernel
CANNOT_RUN = (
    126,
    127,
)  # a shell's exit statuses where there is no such program, or none that may be run (POSIX, sh)

_SHELL = (
    "/bin/sh",
    "-c",
    'exec "$0" "$@"',
)  # the arguments are handed over as they are, and none is read by the shell
_TAIL_BYTES = 4096
_READ_BYTES = 1 << 16  # what a pipe holds
_KILL_ROUNDS = 5  # each finds what was forked during the one before, if that was not killed in time
# How a service talks to its manager (sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3)): the daemon's part.
_OURS = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}
)


class Program:
    """A program that runs; `ended` is done once it is gone for good, with its exit status: negative for a signal's number.

    What it left running in its process group is killed then. `ended` raises RuntimeError, and the program is killed, where no thread can be had to
    wait for it.
    """

    def __init__(self, process: subprocess.Popen[bytes], output: int | None) -> None:
        self._process = process
        self._output = None if output is None else _Output(output, self.kill)
        self.ended = asyncio.ensure_future(self._end())

    def kill(self) -> None:
        """Kill it and all that it started, as far as that is in its session still; harmless where it has ended."""
        if self.ended.done():
            return
        self._signal_group()
        met: set[int] = set()
        for _round in range(_KILL_ROUNDS):
            found = set(_session(self._process.pid)) - met
            if not found:
                return
            for pid in found:
                # A number that was just seen is not given to another process at once: the kernel goes through all others first.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            met |= found

    async def finish(self) -> None:
        """Kill it and wait until it is gone, within bounds."""
        self.kill()
        await asyncio.wait([self.ended], timeout=END_TIMEOUT_S)

    @property
    def flooded(self) -> bool:
        """Whether it printed more than `MAX_OUTPUT_BYTES`, and was killed for that."""
        return self._output is not None and self._output.is_flood

    @property
    def last_line(self) -> str:
        """The last line with something printable of what it has said so far, at most `MAX_LINE_CHARACTERS`."""
        text = b"" if self._output is None else self._output.tail
        lines = [blanked(line).strip() for line in text.decode(errors="replace").splitlines()]
        return shortened(next((line for line in reversed(lines) if line), ""), MAX_LINE_CHARACTERS)

    async def _end(self) -> int:
        pid = self._process.pid
        try:
            # Until it is reaped no other process, group or session can get its number.
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
    """Reads what a program prints, and keeps the end of it."""

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
        """Read what is there, and no more."""
        while self._read():
            pass
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> bool:
        """Whether there may be more."""
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
    """Start a program, by its whole path, with `variables` beside our environment; without `listen` nobody reads what it prints.

    Raises OSError where this machine can start no process at all. A program that cannot be run ends with an exit status of `CANNOT_RUN`.
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
    """A file in memory, for a pipe would have to be written to while the program reads; no data is no input at all."""
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
    """The processes of a session, those included that made process groups of their own, as timeout(1) does."""
    for name in os.listdir("/proc"):  # noqa: PTH208  Path objects for a thousand processes would cost more than the look itself
        if name.isdigit():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(int(name)) == leader:
                    yield int(name)
