"""Where things lie in ZooKeeper.

All under the connection string's chroot::

    /maglev0/<vip>/settings       what all nodes agree on (JSON)
    /maglev0/<vip>/members        the parent; its stat (czxid, cversion, version) is the view's identity
    /maglev0/<vip>/members/<id>   ephemeral, one member's record (JSON)
    /maglev0/<vip>/acks/<id>      ephemeral, how far that member has come with which view (JSON)
    /maglev0/<vip>/leases/<id>    one member's last renewal (JSON); nobody watches it

Every change of a member's record is a transaction that also writes the parent, so that one stat tells whether a view is current.

Pure: imports no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paths:
    """The paths of one cluster; `base` is its /maglev0/<vip> with the chroot in front."""

    base: str

    @property
    def settings(self) -> str:
        """The settings."""
        return f"{self.base}/settings"

    @property
    def members(self) -> str:
        """The parent of the members' records."""
        return f"{self.base}/members"

    @property
    def acks(self) -> str:
        """The parent of the acknowledgements."""
        return f"{self.base}/acks"

    @property
    def leases(self) -> str:
        """The parent of the leases."""
        return f"{self.base}/leases"

    def member(self, member: int) -> str:
        """One member's record."""
        return f"{self.members}/{member}"

    def ack(self, member: int) -> str:
        """One member's acknowledgement."""
        return f"{self.acks}/{member}"

    def lease(self, member: int) -> str:
        """One member's lease."""
        return f"{self.leases}/{member}"

    def acknowledging(self, path: str) -> int | None:
        """The member whose acknowledgement lies at a path, `None` for every other path."""
        parent, _, name = path.rpartition("/")
        return int(name) if parent == self.acks and name.isdecimal() else None
