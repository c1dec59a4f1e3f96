"""The name of a lab. All that the lab makes carries it, so the name is enough to remove the lab.

A lab consists of namespaces called ``<name>-…``, the processes in them, and the directory
``/run/maglev0-lab-<name>``. The lab makes the directory first and removes it last. The owner of the
lab holds a lock in the directory. A directory whose lock is free belongs to a kept lab, or to
a lab whose process was killed.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from maglev0.lab.errors import LabError
from maglev0.lab.testbed import libc, namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

_RUN = Path("/run")
_PREFIX = "maglev0-lab-"
_LOCK = "lock"
_MOUNTS = Path("/proc/thread-self/mounts")
# A name becomes part of paths that are removed, so the pattern is strict.
_NAME = re.compile(r"mg\d+(x\d+)?")


@dataclass(frozen=True)
class Claim:
    """The name of a lab and its directory.

    `lock` is the descriptor of the owner's lock: this process and its forks own the lab until they
    call `release` or end. It is None where this process does not own the lab.
    """

    name: str
    directory: Path
    lock: int | None = None

    def namespace(self, part: str) -> str:
        """The name of the lab's namespace for `part`."""
        return f"{self.name}-{part}"

    def release(self) -> None:
        """Release the lock and keep the lab; from now on it counts as left over."""
        if self.lock is not None:
            os.close(self.lock)


def claim() -> Claim:
    """Take an unused lab name.

    It is mg<pid>, and mg<pid>x<n> for each further lab of the same process.
    """
    for number in count():  # ends: a process has finitely many labs
        name = f"mg{os.getpid()}" + (f"x{number}" if number else "")
        if not directory_of(name).exists():
            return _take(name)
    raise AssertionError


def _take(name: str) -> Claim:
    # The directory is locked before it gets its name, so no process finds it without an owner.
    preparing = _RUN / f".{_PREFIX}{name}"
    shutil.rmtree(preparing, ignore_errors=True)
    preparing.mkdir(mode=0o755)
    lock = os.open(preparing / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    preparing.rename(directory_of(name))
    return Claim(name, directory_of(name), lock)


def directory_of(name: str) -> Path:
    """The directory of the lab's logs and data."""
    return _RUN / f"{_PREFIX}{name}"


def left_over() -> list[str]:
    """The names of the labs without an owner: kept labs, and labs whose process was killed."""
    return [name for name in lab_names() if not has_owner(name)]


def lab_names() -> list[str]:
    """The names of all labs on this machine."""
    found = sorted(path.name.removeprefix(_PREFIX) for path in _RUN.glob(f"{_PREFIX}mg*"))
    return [name for name in found if _NAME.fullmatch(name)]


@contextmanager
def owned(name: str) -> Iterator[None]:
    """Own an existing lab while the block runs.

    Waits while another process owns the lab. Raises LabError where the lab does not exist.
    """
    try:
        lock = os.open(directory_of(name) / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise LabError(f"there is no lab {name}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def has_owner(name: str) -> bool:
    """Whether a process holds the lab's lock."""
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
    """Kill the lab's processes and remove all that it made; safe to repeat when interrupted."""
    if _NAME.fullmatch(name) is None:
        raise LabError(f"removing lab {name!r}: the name of a lab looks like mg1234")
    for part in namespace.names(f"{name}-"):
        namespace.remove(part)
    for mounted in _mounted_below(directory_of(name)):
        libc.unmount(mounted)
    with suppress(FileNotFoundError):
        shutil.rmtree(directory_of(name))


def _mounted_below(directory: Path) -> list[str]:
    targets = [line.split()[1] for line in _MOUNTS.read_text().splitlines()]
    return [target for target in targets if target.startswith(f"{directory}/")]
