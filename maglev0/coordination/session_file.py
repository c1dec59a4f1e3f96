"""What a daemon leaves for the one that starts after it: which session to take back, so that nobody in the cluster sees a change.

It holds for the same kernel and network namespace only, and for the same request: a session taken back with another timeout may end by either one.
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
    """The run of this kernel, and this network namespace: what a dataplane's state belongs to."""
    return f"{boot_id()}/{_NAMESPACE.stat().st_ino}"


class SavedSession(NamedTuple):
    """What an earlier daemon left: its session, and the cluster's settings that it ran with."""

    session: Identity
    settings: Settings


class SessionFile:
    """The file of one VIP. systemd names its directory in $RUNTIME_DIRECTORY, and keeps it across restarts of the unit alone."""

    def __init__(self, vip: IPv4Address, zk: ZooKeeperAddress, kernel: str) -> None:
        self.path = run_directory() / f"{vip}.session"
        self._zk = str(zk)
        self._kernel = kernel
        self._written: SavedSession | None = None

    def read(self, requested_timeout_s: float) -> SavedSession | None:
        """What an earlier daemon left, if its session is one to take back here and now."""
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
        """Leave this to whoever comes after this process; a restart without it is seen by the others, no more."""
        if left == self._written:
            return
        record = {
            "session": left.session.id
            + (_SESSION_LIMIT >> 1),  # the file holds no negative numbers
            "password": left.session.password.hex(),
            "timeout_ms": round(left.session.requested_timeout_s * 1000),
            "settings": left.settings.encode().decode(),
            "kernel": self._kernel,
            "zk": self._zk,
        }
        try:
            # The password in it is the right to act as this member.
            replace_file(self.path, json.dumps(record))
        except OSError as error:
            log.warning(
                "writing %s: %s; a restart of this daemon will be a change to the cluster",
                self.path,
                error.strerror,
            )
        self._written = left

    def remove(self) -> None:
        """Leave nothing."""
        with contextlib.suppress(OSError):
            self.path.unlink()
