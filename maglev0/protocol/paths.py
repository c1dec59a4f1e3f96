"""The paths of all znodes in ZooKeeper.

Pure: imports no I/O. All lie under the connection string's chroot::

    /maglev0/<vip>/settings      what all nodes agree on (JSON)
    /maglev0/<vip>/members       the parent; its czxid, cversion and version identify the view
    /maglev0/<vip>/members/<id>  ephemeral, one member's record (JSON)
    /maglev0/<vip>/acks/<id>     ephemeral, how far that member has come with which view (JSON)
    /maglev0/<vip>/leases/<id>   persistent, one member's last renewal (JSON); nobody watches it
    /maglev0/<vip>/orders/<id>   persistent, what an operator orders of that member (JSON)
    /maglev0/<vip>/reports/<id>  ephemeral, what that member reports for people to read (JSON)
    /maglev0/<vip>/held/<id>     ephemeral, the buckets in force in its kernel, read back from it

Every change of a member's record is a transaction that also writes the parent, so that one stat
tells whether a view is current.
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

    @property
    def orders(self) -> str:
        """The parent of the operators' orders."""
        return f"{self.base}/orders"

    @property
    def reports(self) -> str:
        """The parent of the members' reports."""
        return f"{self.base}/reports"

    @property
    def held(self) -> str:
        """The parent of what the members' kernels hold."""
        return f"{self.base}/held"

    @property
    def parents(self) -> tuple[str, ...]:
        """All that have a child per member."""
        return self.members, self.acks, self.leases, self.orders, self.reports, self.held

    def member(self, member: int) -> str:
        """One member's record."""
        return f"{self.members}/{member}"

    def ack(self, member: int) -> str:
        """One member's acknowledgement."""
        return f"{self.acks}/{member}"

    def lease(self, member: int) -> str:
        """One member's lease."""
        return f"{self.leases}/{member}"

    def order(self, member: int) -> str:
        """What an operator wants of one member."""
        return f"{self.orders}/{member}"

    def report(self, member: int) -> str:
        """One member's report."""
        return f"{self.reports}/{member}"

    def holding(self, member: int) -> str:
        """What one member's kernel holds."""
        return f"{self.held}/{member}"

    def acknowledging(self, path: str) -> int | None:
        """The member whose acknowledgement lies at a path, `None` for every other path."""
        parent, _, name = path.rpartition("/")
        return int(name) if parent == self.acks and name.isdecimal() else None
