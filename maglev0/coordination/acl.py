"""Whose znodes are whose: the ACL that this node gives to what it creates, and which znodes that others created have the same.

Pure: imports no I/O. A znode is ours if its ACL is that one, and was never changed: whoever may change it once can do so again, and ZooKeeper gives
such changes no place in its order, so that two nodes could judge the same view differently.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

ALL = 31  # read, write, create, delete, admin
MAX_KNOWN = 32_768  # znodes of which it is remembered: six of each of the most members that there may be, and what else may lie beside them


class AclEntry(NamedTuple):
    """One entry of an ACL."""

    perms: int
    scheme: str
    id: str


class AclVerdict(NamedTuple):
    """Of a znode's creation and the version of its ACL: whether it is ours."""

    czxid: int
    aversion: int
    ours: bool


class AclJudge:
    """What is known of ACLs by one identity; `scheme` is ZooKeeper's scheme of it."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.own: frozenset[AclEntry] = frozenset()  # until it is learned
        self._known: dict[str, AclVerdict] = {}

    def learn(self, acl: Iterable[AclEntry]) -> bool:
        """Take from the ACL of what was created for whoever is authenticated the entry of our scheme; return whether there is one.

        There may be others: of a connection with a certificate and a password ZooKeeper knows two identities. One is enough to be in, and the
        certificates of two nodes may differ.
        """
        self.own = frozenset(
            entry for entry in acl if entry.scheme == self.scheme and entry.perms == ALL
        )
        return bool(self.own)

    def known(self, path: str) -> bool:
        """Whether an earlier znode at this path was judged, so that it is worth reading first whether it is the same."""
        return path in self._known

    def verdict(self, path: str, czxid: int, aversion: int) -> bool | None:
        """Whether that znode is ours, `None` where its ACL was not read."""
        known = self._known.get(path)
        return (
            known.ours
            if known is not None and (known.czxid, known.aversion) == (czxid, aversion)
            else None
        )

    def judge(self, path: str, czxid: int, aversion: int, acl: Iterable[AclEntry]) -> None:
        """Remember what the ACL of that znode says."""
        self._known.pop(path, None)
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]  # the oldest
        self._known[path] = AclVerdict(
            czxid, aversion, aversion == 0 and frozenset(acl) == self.own
        )

    def forget(self, path: str) -> None:
        """There is no such znode any more, or another."""
        self._known.pop(path, None)
