"""Notifies systemd of the daemon's state, by datagrams to $NOTIFY_SOCKET (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket
import time

MAX_STATUS = 500  # characters of the line that systemctl status shows


def watchdog_period_s() -> float | None:
    """How often to call `alive`, in seconds; `None` if systemd does not expect it.

    A third of systemd's limit, so that two calls may be late.
    """
    asked = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return (
        int(asked) / 3_000_000
        if mine and asked.isascii() and asked.isdecimal() and int(asked)
        else None
    )


def ready() -> None:
    """Report that the daemon serves, or serves again after a reload."""
    _notify("READY=1")


def reloading() -> None:
    """Report that the daemon reads its configuration again; `ready` ends this state."""
    _notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def alive() -> None:
    """Report that the main loop makes progress."""
    _notify("WATCHDOG=1")


def status(text: str) -> None:
    """Report the line that systemctl status shows, cut to `MAX_STATUS` characters."""
    _notify(f"STATUS={text[:MAX_STATUS]}")


def stopping(within_s: float) -> None:
    """Report that the daemon stops, which may take `within_s` seconds."""
    _notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(within_s * 1_000_000)}")


def _notify(text: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    # An abstract socket's name begins with a zero byte, which the variable shows as an @.
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with (
        contextlib.suppress(OSError),
        socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        ) as manager,
    ):
        manager.sendto(text.encode(), address)
