"""What systemd is told, where it runs this daemon: datagrams to $NOTIFY_SOCKET, see sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket
import time

MAX_STATUS = 500  # characters of the line that systemctl status shows


def watchdog_period_s() -> float | None:
    """How often systemd wants to hear that the daemon is alive, or `None` if it does not: a third of what it waits, so that two may be late."""
    asked = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return (
        int(asked) / 3_000_000
        if mine and asked.isascii() and asked.isdecimal() and int(asked)
        else None
    )


def ready() -> None:
    """The daemon serves, or serves again after a reload."""
    _tell("READY=1")


def reloading() -> None:
    """The daemon has begun to read its configuration anew; `ready` ends that."""
    _tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def alive() -> None:
    """The loop has come round."""
    _tell("WATCHDOG=1")


def status(text: str) -> None:
    """What the daemon does, for people."""
    _tell(f"STATUS={text[:MAX_STATUS]}")


def stopping(within_s: float) -> None:
    """The daemon has begun to stop, which may take so long."""
    _tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(within_s * 1_000_000)}")


def _tell(text: str) -> None:
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
