"""The claim of one daemon on a VIP on this host, and what it saves for the daemon after it."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

from maglev0.coordination.session import Session, SessionState
from maglev0.coordination.session_file import SavedSession, SessionFile
from maglev0.core.settings import Settings
from maglev0.errors import MaglevError


class HostClaim:
    """Makes this daemon the only one that serves the VIP on this host.

    The constructor raises MaglevError where another daemon serves it.
    A second daemon would remove the rules of the first one when it leaves. The claim is an abstract
    socket (unix(7)): it belongs to a network namespace, as the rules do, and the kernel releases it
    when the process ends in any way.
    """

    def __init__(self, vip: IPv4Address, file: SessionFile) -> None:
        self._file = file
        self._settings: Settings | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.bind(_name(vip))
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise MaglevError(
                f"another maglev0 serves {vip} on this host already ({_claimant(vip)}):"
                " stop it first"
            ) from error

    def note_settings(self, settings: Settings) -> None:
        """Take the cluster's settings, which `save` writes with the session."""
        self._settings = settings

    def save(self, session: Session) -> None:
        """Save session and settings: with them the next daemon takes the member's place back."""
        identity = session.identity
        if (
            self._settings is not None
            and identity is not None
            and session.state is SessionState.CONNECTED
        ):
            self._file.write(SavedSession(identity, self._settings))

    def forget(self) -> None:
        """Remove what was saved, and save nothing from now on: the member leaves the cluster."""
        self._settings = None
        self._file.remove()

    def release(self) -> None:
        """Let another daemon of this host serve the VIP."""
        self._socket.close()


def _name(vip: IPv4Address) -> str:
    return f"\0maglev0/{vip}"


def _claimant(vip: IPv4Address) -> str:
    """Name the process that holds the claim, as the kernel knows it: any user may bind the name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(_name(vip))
            pid, uid, _gid = struct.unpack(
                "3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            )
        except OSError:
            return "which is just ending"
    return f"pid {pid} of uid {uid}"
