"""Notes of what maglev0 added to this host, for the next daemon to undo.

One file per VIP in the runtime directory says on which interface a daemon put the address. It is
written before the address is added and removed after the address is gone, so a killed daemon may
leave a note too many but never one too few. A note counts in the same run of the kernel and in the
same network namespace only.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from maglev0.core.settings import read_int, read_object, read_text
from maglev0.runtime.run_directory import boot_id, replace_file, run_directory

log = logging.getLogger(__name__)

_SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, from Linux 5.14 on
_NAMESPACE = Path("/proc/thread-self/ns/net")  # of the calling thread
_INDEX_LIMIT = 1 << 31


def write(vip: IPv4Address, index: int) -> None:
    """Note that the VIP is about to be added to the interface with this index.

    A note that cannot be written costs a warning: the address is then taken for the operator's.
    """
    path = _path(vip)
    try:
        replace_file(path, json.dumps({"boot": boot_id(), "address_on": index}))
    except OSError as error:
        log.warning(
            "writing %s: %s; the address %s will stay on this host when maglev0 ends",
            path,
            error.strerror,
            vip,
        )


def read(vip: IPv4Address) -> int | None:
    """Return the index of the interface that the note names; None without a valid note."""
    try:
        record = read_object(_path(vip).read_bytes())
        index = read_int(record, "address_on", 1, _INDEX_LIMIT)
        return index if read_text(record, "boot") == boot_id() else None
    except (OSError, ValueError):
        return None


def remove(vip: IPv4Address) -> None:
    """Remove the note, if there is one."""
    with suppress(OSError):
        _path(vip).unlink()


def _path(vip: IPv4Address) -> Path:
    # Daemons in several network namespaces may share a runtime directory.
    return run_directory() / f"{vip}-{_namespace()}.added"


def _namespace() -> str:
    """Identify the network namespace: by the kernel's cookie, which is never used again.

    Older kernels have no cookie; there it is the inode, which a later namespace may get again.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            cookie = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return f"inode{_NAMESPACE.stat().st_ino}"
    return f"net{int.from_bytes(cookie, sys.byteorder)}"
