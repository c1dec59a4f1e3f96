"""The session that a daemon leaves to the next one, so that a restart changes no view.

A session is resumed only in the same kernel and network namespace, and with the same requested
timeout: with another one, ZooKeeper may expire the session by either.
"""

from __future__ import annotations

import contextlib
import json
import logging
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from maglev0.config.configuration import ZooKeeperAddress
from maglev0.coordination.session import Identity
from maglev0.core import settings as agreed
from maglev0.core.settings import Settings, read_int, read_object, read_text
from maglev0.runtime.run_directory import boot_id, replace_file, run_directory

log = logging.getLogger(__name__)

_NAMESPACE = Path("/proc/thread-self/ns/net")
_SESSION_LIMIT = 1 << 64


def kernel_identity() -> str:
    """The boot and the network namespace that the state of a dataplane belongs to."""
    return f"{boot_id()}/{_NAMESPACE.stat().st_ino}"


class SavedSession(NamedTuple):
    """What the previous daemon left: its session, and the settings of the cluster."""

    session: Identity
    settings: Settings


class SessionFile:
    """The file of one VIP, in the directory that systemd keeps while the unit restarts."""

    def __init__(self, vip: IPv4Address, zk: ZooKeeperAddress, kernel: str) -> None:
        self.path = run_directory() / f"{vip}.session"
        self._zk = str(zk)
        self._kernel = kernel
        self._written: SavedSession | None = None

    def read(self, requested_timeout_s: float) -> SavedSession | None:
        """What the previous daemon left, if its session can be resumed here; else `None`."""
        try:
            record = read_object(self.path.read_bytes())
            session = Identity(
                read_int(record, "session", 0, _SESSION_LIMIT) - (_SESSION_LIMIT >> 1),
                bytes.fromhex(read_text(record, "password")),
                read_int(record, "timeout_ms", 0, 1 << 32) / 1000,
            )
            found = SavedSession(
                session, agreed.decode(read_text(record, "settings", 4096).encode())
            )
            same = (read_text(record, "kernel"), read_text(record, "zk", 4096)) == (
                self._kernel,
                self._zk,
            )
        except (OSError, ValueError):
            return None
        return found if same and session.requested_timeout_s == requested_timeout_s else None

    def write(self, left: SavedSession) -> None:
        """Leave a session to the next daemon; an error is logged, and a restart moves buckets."""
        if left == self._written:
            return
        record = {
            # The file has no negative numbers.
            "session": left.session.id + (_SESSION_LIMIT >> 1),
            "password": left.session.password.hex(),
            "timeout_ms": round(left.session.requested_timeout_s * 1000),
            "settings": left.settings.encode().decode(),
            "kernel": self._kernel,
            "zk": self._zk,
        }
        try:
            # Readable for the owner alone: with this password a process can act as this member.
            replace_file(self.path, json.dumps(record))
        except OSError as error:
            log.warning(
                "cannot write %s: %s; a restart of this daemon will move its buckets",
                self.path,
                error.strerror,
            )
        self._written = left

    def remove(self) -> None:
        """Delete the file."""
        with contextlib.suppress(OSError):
            self.path.unlink()
