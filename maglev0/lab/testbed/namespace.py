"""Creates, enters and removes named network namespaces and kills the processes in them.

The names are those that ``ip netns`` shows (files under /run/netns). The lab enters a namespace by
setns(2) or ``nsenter --net``, never by ``ip netns exec``, which would mount a /sys of its own.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from maglev0.lab.errors import LabError
from maglev0.lab.testbed import libc

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = Path("/run/netns")
# A killed process ends within milliseconds. An uninterruptible system call may delay it, and a
# process that forks may need a second round.
EXIT_TIMEOUT_MS = 5000
KILL_ROUNDS = 5


def path_of(name: str) -> Path:
    """The file under /run/netns that names the namespace."""
    return DIRECTORY / name


def create(name: str) -> None:
    """Make an empty namespace with its loopback down.

    Raises OSError if the name is taken or this process lacks the privilege.
    """
    DIRECTORY.mkdir(exist_ok=True)
    path_of(name).touch(exist_ok=False)
    with _coming_home():
        libc.unshare_network()
        libc.bind_mount("/proc/thread-self/ns/net", str(path_of(name)))


@contextmanager
def inside(name: str | None) -> Iterator[None]:
    """Run the block with the calling thread in the namespace; None means the current one.

    A socket that the block opens stays in that namespace and works from any other.
    """
    if name is None:
        yield
        return
    with _coming_home():
        target = os.open(path_of(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc.setns(target)
        finally:
            os.close(target)
        yield


@contextmanager
def _coming_home() -> Iterator[None]:
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        libc.setns(home)
        os.close(home)


def names(prefix: str) -> list[str]:
    """The namespaces whose name starts with `prefix`."""
    if not DIRECTORY.exists():
        return []
    return sorted(entry.name for entry in DIRECTORY.iterdir() if entry.name.startswith(prefix))


def processes(name: str) -> list[int]:
    """The ids of the processes in the namespace, without this process."""
    identity = _identity(path_of(name))
    candidates = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [
        pid
        for pid in candidates
        if pid != os.getpid() and identity is not None and _lives_in(pid, identity)
    ]


def kill_processes(name: str) -> None:
    """Send SIGKILL to all processes in the namespace and wait until they have ended."""
    for _ in range(KILL_ROUNDS):
        pids = processes(name)
        if not pids:
            return
        for pid in pids:
            _kill(pid, _identity(path_of(name)))
    raise LabError(f"emptying namespace {name}: processes {processes(name)} do not end")


def remove(name: str) -> None:
    """Kill the namespace's processes and remove it; a missing or half-made one is accepted."""
    kill_processes(name)
    with suppress(OSError):  # EINVAL: its creator died before it mounted
        libc.unmount(str(path_of(name)))
    path_of(name).unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode, which identify a namespace; None for a zombie or a missing file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _lives_in(pid: int, identity: tuple[int, int]) -> bool:
    return _identity(Path(f"/proc/{pid}/ns/net")) == identity


def _kill(pid: int, identity: tuple[int, int] | None) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # Checked again with the descriptor open: the number may belong to another process by now.
        if identity is not None and _lives_in(pid, identity):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN)
            waiting.poll(EXIT_TIMEOUT_MS)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)
