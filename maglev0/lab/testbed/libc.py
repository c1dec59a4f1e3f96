"""System calls that Python 3.11's library lacks: namespaces, mounts, inotify, prctl."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 0x2
IN_MODIFY = 0x2
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _call(name: str, *arguments: object) -> int:
    """Call libc's function `name`; raises OSError with its errno where it returns -1."""
    library = ctypes.CDLL(None, use_errno=True)
    result: int = getattr(library, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def setns(descriptor: int) -> None:
    """Move the calling thread into the network namespace open at `descriptor`."""
    _call("setns", descriptor, CLONE_NEWNET)


def unshare_network() -> None:
    """Give the calling thread a new, empty network namespace."""
    _call("unshare", CLONE_NEWNET)


def bind_mount(source: str, target: str) -> None:
    """Bind `source` to `target`; this keeps a namespace alive without a process in it."""
    _call("mount", source.encode(), target.encode(), b"none", ctypes.c_ulong(MS_BIND), None)


def mount_bpf(target: str) -> None:
    """Mount a new, empty BPF file system on a directory."""
    _call("mount", b"bpf", target.encode(), b"bpf", ctypes.c_ulong(0), b"mode=0700")


def unmount(target: str) -> None:
    """Detach the mount at `target` at once, even while it is in use."""
    _call("umount2", target.encode(), MNT_DETACH)


def watch_growth(paths: list[str]) -> int:
    """An inotify descriptor that becomes readable when a process writes to one of the files."""
    descriptor = _call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
    for path in paths:
        _call("inotify_add_watch", descriptor, path.encode(), ctypes.c_uint32(IN_MODIFY))
    return descriptor


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process `signal_number` when the thread that started it ends."""
    _call(
        "prctl",
        PR_SET_PDEATHSIG,
        ctypes.c_ulong(signal_number),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent has ended."""
    _call(
        "prctl",
        PR_SET_CHILD_SUBREAPER,
        ctypes.c_ulong(1),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
