"""What systemd is told, where it runs this daemon: datagrams to $NOTIFY_SOCKET, see sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket


def stopping(within_s: float) -> None:
    """The daemon has begun to stop, which may take so long."""
    _tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(within_s * 1_000_000)}")


def _tell(text: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    # An abstract socket's name begins with a zero byte, which the variable shows as an @.
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.sendto(text.encode(), address)
