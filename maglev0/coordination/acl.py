"""Whether a znode belongs to the cluster's identity: the judge of ACLs.

Pure: imports no I/O. A znode is ours if it has the ACL that this node gives to the znodes it
creates, and if this ACL was never changed. A client that may change it once can do so again, and
ZooKeeper does not order such changes, so that two nodes could judge the same view differently.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

ALL = 31  # read, write, create, delete, admin
MAX_KNOWN = 32_768  # verdicts kept: six znodes of each of 1,024 members fit five times


class AclEntry(NamedTuple):
    """One entry of an ACL."""

    perms: int
    scheme: str
    id: str


class AclVerdict(NamedTuple):
    """Whether a znode is ours, by its creation and the version of its ACL."""

    czxid: int
    aversion: int
    ours: bool


class AclJudge:
    """The verdicts of one identity, whose ZooKeeper scheme is `scheme`, on ACLs."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.own: frozenset[AclEntry] = frozenset()  # until it is learned
        self._known: dict[str, AclVerdict] = {}

    def learn(self, acl: Iterable[AclEntry]) -> bool:
        """Take the entry of our scheme from the ACL of a znode that this node created as itself.

        Returns whether there is such an entry. There may be others: with a certificate and a
        password ZooKeeper knows two identities of a connection. One is enough, and the
        certificates of two nodes may differ.
        """
        self.own = frozenset(
            entry for entry in acl if entry.scheme == self.scheme and entry.perms == ALL
        )
        return bool(self.own)

    def known(self, path: str) -> bool:
        """Whether a znode at this path was judged; its stat shows if it is still the same."""
        return path in self._known

    def verdict(self, path: str, czxid: int, aversion: int) -> bool | None:
        """Whether that znode is ours; `None` if its ACL was not read."""
        known = self._known.get(path)
        return (
            known.ours
            if known is not None and (known.czxid, known.aversion) == (czxid, aversion)
            else None
        )

    def judge(self, path: str, czxid: int, aversion: int, acl: Iterable[AclEntry]) -> None:
        """Keep the verdict on the ACL of that znode."""
        self._known.pop(path, None)
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]  # the oldest
        self._known[path] = AclVerdict(
            czxid, aversion, aversion == 0 and frozenset(acl) == self.own
        )

    def forget(self, path: str) -> None:
        """Drop the verdict: the znode is gone, or is another one."""
        self._known.pop(path, None)
