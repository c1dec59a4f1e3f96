"""A lab's name, which everything it makes carries, and how a lab is removed by nothing but that name.

A lab is namespaces called ``<name>-…``, the processes in them, and the directory ``/run/maglev0-lab-<name>``. The directory is made
first and removed last, and its owner holds a lock in it: whatever happened to the owner, the directories tell which labs are left over.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from maglev0.lab.errors import LabError
from maglev0.lab.testbed import libc, namespace

_RUN = Path("/run")
_PREFIX = "maglev0-lab-"
_LOCK = "lock"
_MOUNTS = Path("/proc/thread-self/mounts")
# Names end up in paths and namespace names; nothing else is ever removed.
_NAME = re.compile(r"mg\d+(x\d+)?")


@dataclass(frozen=True)
class Claim:
    """A name that is ours until `release`, or until this process and its forks have ended."""

    name: str
    directory: Path
    lock: int

    def namespace(self, part: str) -> str:
        """The name of the lab's namespace for `part`."""
        return f"{self.name}-{part}"

    def release(self) -> None:
        """Let the lab go without removing it: from now on it counts as left over."""
        os.close(self.lock)


def claim() -> Claim:
    """Take a name that no other lab has: mg<pid>, and mg<pid>x<n> for further labs of one process."""
    for number in count():  # ends: a process has only as many labs as it has made
        name = f"mg{os.getpid()}" + (f"x{number}" if number else "")
        if not directory_of(name).exists():
            return _take(name)
    raise AssertionError


def _take(name: str) -> Claim:
    # Locked before it is renamed to what others look for: nobody ever sees it without an owner.
    preparing = _RUN / f".{_PREFIX}{name}"
    shutil.rmtree(preparing, ignore_errors=True)
    preparing.mkdir(mode=0o755)
    lock = os.open(preparing / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    preparing.rename(directory_of(name))
    return Claim(name, directory_of(name), lock)


def directory_of(name: str) -> Path:
    """Where the lab keeps its logs and data."""
    return _RUN / f"{_PREFIX}{name}"


def left_over() -> list[str]:
    """The names of the labs whose owner has gone: kept on purpose, or killed before it could clean up."""
    names = sorted(path.name.removeprefix(_PREFIX) for path in _RUN.glob(f"{_PREFIX}mg*"))
    return [name for name in names if _NAME.fullmatch(name) and not has_owner(name)]


def has_owner(name: str) -> bool:
    """Whether the process that made the lab, or its worker, still lives."""
    try:
        lock = os.open(directory_of(name) / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def remove(name: str) -> None:
    """Kill and remove everything of the lab; harmless when done twice, or after half of it is gone."""
    if _NAME.fullmatch(name) is None:
        raise LabError(f"removing lab {name!r}: that is no name of a lab, which looks like mg1234")
    for part in namespace.names(f"{name}-"):
        namespace.remove(part)
    for mounted in _mounted_below(directory_of(name)):
        libc.unmount(mounted)
    with suppress(FileNotFoundError):
        shutil.rmtree(directory_of(name))


def _mounted_below(directory: Path) -> list[str]:
    targets = [line.split()[1] for line in _MOUNTS.read_text().splitlines()]
    return [target for target in targets if target.startswith(f"{directory}/")]
