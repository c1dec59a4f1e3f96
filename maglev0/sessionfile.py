"""What a daemon leaves for the one that starts after it: which session to take back, so that nobody in the cluster sees a change.

It holds for the same kernel and network namespace only, and for the same request: a session taken back with another timeout may end by either one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from maglev0.config import ZooKeeperAddress
from maglev0.settings import read_int, read_object, read_text
from maglev0.zookeeper import Identity

log = logging.getLogger(__name__)

_DEFAULT = "/run/maglev0"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/thread-self/ns/net")
_SESSION_LIMIT = 1 << 64


def kernel_identity() -> str:
    """The run of this kernel, and this network namespace: what a dataplane's state belongs to."""
    return f"{_BOOT_ID.read_text('ascii').strip()}/{_NAMESPACE.stat().st_ino}"


class SessionFile:
    """The file of one VIP. systemd names its directory in $RUNTIME_DIRECTORY, and keeps it across restarts of the unit alone."""

    def __init__(self, vip: IPv4Address, zk: ZooKeeperAddress, kernel: str) -> None:
        self.path = _directory() / f"{vip}.session"
        self._zk = str(zk)
        self._kernel = kernel
        self._written: Identity | None = None

    def read(self, requested_timeout_s: float) -> Identity | None:
        """The session that an earlier daemon left, if it is one to take back here and now."""
        try:
            record = read_object(self.path.read_bytes())
            found = Identity(
                read_int(record, "session", 0, _SESSION_LIMIT) - (_SESSION_LIMIT >> 1),
                bytes.fromhex(read_text(record, "password")),
                read_int(record, "timeout_ms", 0, 1 << 32) / 1000,
            )
            same = (read_text(record, "kernel"), read_text(record, "zk", 4096)) == (self._kernel, self._zk)
        except (OSError, ValueError):
            return None
        return found if same and found.requested_timeout_s == requested_timeout_s else None

    def write(self, session: Identity | None) -> None:
        """Leave a session to whoever comes after this process; a restart without it is seen by the others, no more."""
        if session is None or session == self._written:
            return
        record = NamedRecord(
            session.id + (_SESSION_LIMIT >> 1), session.password.hex(), round(session.requested_timeout_s * 1000), self._kernel, self._zk
        )
        fresh = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
                json.dump(record._asdict(), file)
            fresh.replace(self.path)
        except OSError as error:
            log.warning("writing %s: %s; a restart of this daemon will be a change to the cluster", self.path, error.strerror)
            with contextlib.suppress(OSError):
                fresh.unlink()
        self._written = session

    def remove(self) -> None:
        """Leave nothing."""
        with contextlib.suppress(OSError):
            self.path.unlink()


class NamedRecord(NamedTuple):
    """What the file holds; the session's id is shifted to be positive."""

    session: int
    password: str
    timeout_ms: int
    kernel: str
    zk: str


def _directory() -> Path:
    return Path(os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or _DEFAULT)
