"""ZooKeeper as the protocol sees it: a narrow port.

Pure: imports no I/O. kazoo implements it, and the simulation's model under attack. Semantics are
those of the ZooKeeper Programmer's Guide: writes take their places in one order (zxid); one
session's operations take place in the order in which they were sent; a read sees at least what the
session has written or read before, and may lag behind the others' writes by any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Disconnected(Exception):  # noqa: N818  no error: the session is away and the caller waits for it
    """The session is not connected, did not answer in time, or was lost.

    Whether the operation took place is unknown.
    """


class Refused(Exception):  # noqa: N818  no error: others changed something meanwhile, and the caller looks again
    """A transaction was rolled back. `index` names the operation that failed, `reason` says how."""

    def __init__(self, index: int, reason: Reason) -> None:
        super().__init__(f"operation {index}: {reason}")
        self.index = index
        self.reason = reason


class Reason(NamedTuple):
    """Why an operation of a transaction failed; exactly one is true."""

    exists: bool = False
    missing: bool = False
    version: bool = False


class Stat(NamedTuple):
    """A znode's stat.

    zxids of its creation, of its data's and its children's last change; their versions; its
    ephemeral owner (0 = persistent).
    """

    czxid: int
    mzxid: int
    pzxid: int
    version: int
    cversion: int
    owner: int


class Znode(NamedTuple):
    """A znode as read.

    `ours` tells whether only the cluster's own identity may change it, where the cluster has one.
    """

    data: bytes
    stat: Stat
    ours: bool = True


class Create(NamedTuple):
    """Create a znode; refused where it exists or its parent is missing."""

    path: str
    data: bytes
    ephemeral: bool


class Write(NamedTuple):
    """Replace a znode's data if it is of that version (-1: of any)."""

    path: str
    data: bytes
    version: int


class Delete(NamedTuple):
    """Delete a znode if it is of that version (-1: of any)."""

    path: str
    version: int


class VersionGuard(NamedTuple):
    """Check that a znode is of that version."""

    path: str
    version: int


Operation = Create | Write | Delete | VersionGuard


class Committed(NamedTuple):
    """A transaction that took place.

    `zxid` is its place in the order (0 where it wrote no data, which `Write` does); `looked` is
    what `look` found, where one was asked for.
    """

    zxid: int
    looked: Stat | None


class ZooKeeper(Protocol):
    """One session. Every method raises `Disconnected`."""

    @property
    def session(self) -> int:
        """The session's id."""

    async def get(self, path: str, *, watch: bool = False) -> Znode | None:
        """Read a znode, `None` where there is none (with `watch`, one is left in both cases)."""

    async def get_all(self, paths: Sequence[str], *, watch: bool = False) -> list[Znode | None]:
        """Read several at once: their reads are sent together, and are no snapshot."""

    async def children(self, path: str, *, watch: bool = False) -> tuple[list[str], Stat] | None:
        """The names of a znode's children and its stat.

        `None` where there is no such znode (no watch is left then).
        """

    async def commit(self, operations: Sequence[Operation], look: str | None = None) -> Committed:
        """Carry out all operations or none.

        `look` is a path whose stat is read right after them, in the same session and connection.
        Raises `Refused` when none took place, and `Disconnected` when that is unknown, or when it
        is known but the look failed.
        """
