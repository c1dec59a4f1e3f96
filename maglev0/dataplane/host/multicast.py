"""The cluster MAC in the receive filter of the traffic interface."""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path

from maglev0.errors import DataplaneError

_SIOCADDMULTI = 0x8931  # include/uapi/linux/sockios.h
_SIOCDELMULTI = 0x8932
# struct ifreq of netdevice(7): name, family of ifr_hwaddr (AF_UNSPEC), its address
_IFREQ_HWADDR = struct.Struct("16sH6s16x")
# /proc/net leads to the namespace of the process's first thread; sockets are in the namespace of
# the calling thread.
_DEV_MCAST = Path("/proc/thread-self/net/dev_mcast")


def has(interface: str, mac: str) -> bool:
    """Whether a program asked the interface to receive that MAC, as ``ip maddr add`` does."""
    wanted = mac.replace(":", "")
    # Columns: index, name, users, global users, address (net/core/dev_addr_lists.c).
    # The ioctl counts global users only.
    try:
        rows = [line.split() for line in _DEV_MCAST.read_text().splitlines()]
    except OSError as error:
        raise DataplaneError(f"reading {_DEV_MCAST}: {error.strerror}") from error
    return any(row[1] == interface and row[4] == wanted and row[3] != "0" for row in rows)


def add(interface: str, mac: str) -> None:
    """Let the interface receive frames for a multicast MAC, also after this process has ended."""
    _change(_SIOCADDMULTI, interface, mac)


def remove(interface: str, mac: str) -> None:
    """Undo `add`; nothing happens when it is undone already."""
    if has(interface, mac):
        _change(_SIOCDELMULTI, interface, mac)


def _change(request: int, interface: str, mac: str) -> None:
    argument = _IFREQ_HWADDR.pack(
        interface.encode(), socket.AF_UNSPEC, bytes.fromhex(mac.replace(":", ""))
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, request, argument)
        except OSError as error:
            verb = "add" if request == _SIOCADDMULTI else "del"
            raise DataplaneError(
                f"ip maddr {verb} {mac} dev {interface}: {error.strerror}"
            ) from error
