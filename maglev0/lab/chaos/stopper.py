"""Stops a process at one chosen system call of one of its threads, by ptrace(2)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from maglev0.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/ptrace.h and linux/wait.h
_SEIZE, _INTERRUPT, _SYSCALL, _DETACH = 0x4206, 0x4207, 24, 17
_TRACE_SYSTEM_CALLS = 0x1  # PTRACE_O_TRACESYSGOOD
_SYSTEM_CALL_STOP = signal.SIGTRAP | 0x80
_EVENT_STOP = 128
_WAIT_ALL = 0x40000000
ASK_S = 0.0002
BUSY_SWITCHES = 2


def threads(pid: int) -> list[int]:
    """The ids of the process's threads, the main one first."""
    return sorted(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())


def busy_threads(pid: int, within_s: float) -> list[int]:
    """The threads that were active within the time; an idle one makes no system call for long."""
    before = {thread: _switches(pid, thread) for thread in threads(pid)}
    time.sleep(within_s)
    return [
        thread
        for thread in threads(pid)
        if _switches(pid, thread) - before.get(thread, 0) >= BUSY_SWITCHES
    ]


def _switches(pid: int, thread: int) -> int:
    """How often a thread has waited for something (proc_pid_status(5))."""
    status = Path(f"/proc/{pid}/task/{thread}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


@contextmanager
def stopped_at(pid: int, thread: int, count: int, timeout_s: float) -> Iterator[str]:
    """Stop the process where `thread` enters or leaves its `count`-th system call from now.

    The process continues after the block.

    Yields the number of the system call. The thread itself is held by the tracer, the others by
    SIGSTOP. Raises LabError where the thread makes fewer calls in time. To be used by one thread of
    ours alone, as ptrace wants it.
    """
    _ptrace(_SEIZE, thread, _TRACE_SYSTEM_CALLS)
    try:
        _ptrace(_INTERRUPT, thread)
        _run_to(thread, count, time.monotonic() + timeout_s)
        os.kill(pid, signal.SIGSTOP)
        yield _call_of(thread)
    finally:
        os.kill(pid, signal.SIGCONT)
        _let_go(thread)


def _run_to(thread: int, count: int, deadline_s: float) -> None:
    """Let the thread go from stop to stop until it has come to system calls so often."""
    stops = 0
    while True:
        status = _wait(thread, deadline_s)
        if status is None:
            raise LabError(
                f"thread {thread} came to {stops} of {count} stops at system calls in time"
            )
        if os.WSTOPSIG(status) == _SYSTEM_CALL_STOP:
            stops += 1
            if stops == count:
                return
        is_event = status >> 16 == _EVENT_STOP
        passed_on = (
            0 if is_event or os.WSTOPSIG(status) == _SYSTEM_CALL_STOP else os.WSTOPSIG(status)
        )
        _ptrace(_SYSCALL, thread, passed_on)


def _wait(thread: int, deadline_s: float) -> int | None:
    """Its status once it has stopped; None where that did not happen in time."""
    while True:
        changed, status = os.waitpid(thread, _WAIT_ALL | os.WNOHANG)
        if changed:
            if not os.WIFSTOPPED(status):
                raise LabError(f"thread {thread} ended while it was traced")
            return status
        if time.monotonic() > deadline_s:
            return None
        time.sleep(ASK_S)


def _let_go(thread: int) -> None:
    """Detach; a thread that runs must be stopped for that first."""
    try:
        _ptrace(_DETACH, thread)
    except OSError:
        _ptrace(_INTERRUPT, thread)
        _wait(thread, time.monotonic() + 1.0)
        _ptrace(_DETACH, thread)


def _call_of(thread: int) -> str:
    """The number of the system call that the thread is in (proc_pid_syscall(5))."""
    return Path(f"/proc/{thread}/syscall").read_text().split()[0]


def _ptrace(request: int, thread: int, data: int = 0) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.restype = ctypes.c_long
    if (
        library.ptrace(
            ctypes.c_long(request), ctypes.c_long(thread), ctypes.c_void_p(0), ctypes.c_void_p(data)
        )
        == -1
    ):
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request:#x} of {thread}: {os.strerror(number)}")
