"""Runs a lab in a separate process, so that the lab is removed however its work ends.

The worker may be killed at any instruction, because all that it makes carries the lab's name. The
parent waits for signals instead of handling them, and then removes all that carries the name.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from maglev0.errors import MaglevError
from maglev0.lab.testbed import claim, libc

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from maglev0.lab.testbed.claim import Claim

_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_WAITED_FOR = _ENDING | {signal.SIGCHLD}


def run(work: Callable[[Claim], int], *, keep: bool = False) -> int:
    """Do the work under a new lab's name, then remove the lab.

    Returns the exit status of the work, or 128 + the signal that ended it. With `keep` a lab whose
    work returned 0 stays. The work runs in a forked child and changes nothing in this process. All
    children of this process are killed, so it must have no others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    mine = claim.claim()
    kept = False
    try:
        status, by_itself = _watch(_fork(work, mine, before))
        kept = keep and by_itself and status == 0
    finally:
        if not kept:
            _kill_orphans()
            claim.remove(mine.name)
        mine.release()
        while signal.sigtimedwait(_WAITED_FOR, 0):
            pass  # a second Ctrl-C has no further effect
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return status


def _fork(work: Callable[[Claim], int], mine: Claim, signals: Collection[int]) -> int:
    # This process adopts orphaned programs: in a container init may never collect them.
    libc.adopt_orphans()
    sys.stdout.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        libc.die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()  # only the parent acts on the terminal's Ctrl-C
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        _work(work, mine)
    return child


def _work(work: Callable[[Claim], int], mine: Claim) -> NoReturn:
    """Run the work in the child, report its error, and exit without the parent's cleanup."""
    status = 1
    try:
        status = work(mine)
    except MaglevError as error:
        sys.stdout.flush()
        sys.stderr.write(f"maglev0: {error}\n")
        status = error.exit_status
    except (BrokenPipeError, SystemExit):
        # The reader of the output has gone; rich turns the broken pipe into an exit.
        status = 1
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:  # a closed pipe must not let the child run the parent's code
            os._exit(status)


def _watch(child: int) -> tuple[int, bool]:
    """Wait until the worker ends or an ending signal arrives.

    Returns the exit status, and whether the worker ended by itself.
    """
    while True:
        received = signal.sigwait(_WAITED_FOR)
        if received in _ENDING:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            sys.stderr.write(f"maglev0: {signal.Signals(received).name}: removing the lab\n")
            return 128 + received, False
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return (code, True) if code >= 0 else (128 - code, False)


def _kill_orphans() -> None:
    """Kill and collect all processes that the worker started, in any namespace."""
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)  # an uncollected child keeps its number
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    return [
        pid
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        if _parent_of(pid) == os.getpid()
    ]


def _parent_of(pid: int) -> int | None:
    """The parent from /proc/<pid>/stat (proc_pid_stat(5)); None where there is no such process."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[1])
