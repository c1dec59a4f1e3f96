"""Plants faults in a node's kernel behind its daemon's back, to see who notices.

Where the kernel protects the daemon's tables from others, it uses a copy of the daemon's own
socket, which root may take (pidfd_getfd(2)).
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from maglev0.dataplane.netlink.message import NETLINK_NETFILTER
from maglev0.dataplane.nftables import message as nfmessage
from maglev0.dataplane.nftables import ruleset
from maglev0.dataplane.nftables.reader import TableReader
from maglev0.lab.errors import LabError
from maglev0.lab.testbed import namespace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from maglev0.dataplane.nftables.message import Message
    from maglev0.lab.testbed.node import LabNode

_PIDFD_GETFD = 438  # the same on every architecture that Linux has had since 5.6
_ANSWER = 1 << 16


def put_in_force(node: LabNode, vip: IPv4Address, buckets: Collection[int]) -> None:
    """Make a node's kernel accept new connections in buckets that it does not own: an overlap."""
    table, numbers = ruleset.table_name(vip), sorted(buckets)
    _change(
        node,
        table,
        lambda slot: [
            nfmessage.add_numbers(table, name, numbers) for name in (slot, ruleset.ADMITTED)
        ],
    )


def take_out_of_force(node: LabNode, vip: IPv4Address, buckets: Collection[int]) -> None:
    """Have a node's kernel refuse new flows in buckets of its own: a hole."""
    table, numbers = ruleset.table_name(vip), sorted(buckets)
    _change(node, table, lambda slot: [nfmessage.delete_numbers(table, slot, numbers)])


def _change(node: LabNode, table: str, messages: Callable[[str], list[Message]]) -> None:
    with namespace.inside(node.machine.namespace):
        reader = TableReader(table)
        try:
            slot, owner = reader.goto(ruleset.OWNED_SLOT), reader.owner("inet")
        finally:
            reader.close()
        if slot not in ruleset.OWNED:
            raise LabError(f"{node.machine.name}: nothing is in force, or a hand-over is under way")
        with _halted(node.daemon.pid), _socket(node.daemon.pid, owner) as kernel:
            kernel.send(nfmessage.batch(messages(slot)))
            with suppress(
                BlockingIOError
            ):  # the answers are there by now, and are not for the daemon to see
                while True:
                    kernel.recv(_ANSWER, socket.MSG_DONTWAIT)


@contextmanager
def _halted(pid: int) -> Iterator[None]:
    """Keep the daemon from using its socket meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _socket(pid: int, port: int) -> socket.socket:
    """A copy of the daemon's socket with that netlink port; a new socket where the port is free."""
    if not port:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    process = os.pidfd_open(pid)
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if str(link.readlink()).startswith("socket:"):
                    copy = socket.socket(fileno=_copy(process, int(link.name)))
                    if (
                        copy.family == socket.AF_NETLINK
                        and copy.proto == NETLINK_NETFILTER
                        and copy.getsockname()[0] == port
                    ):
                        return copy
                    copy.close()
    finally:
        os.close(process)
    raise LabError(f"process {pid} has no socket that owns its tables")


def _copy(process: int, descriptor: int) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    copy: int = library.syscall(_PIDFD_GETFD, process, descriptor, 0)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return copy
