"""The lease timer in the kernel, which only this node's next renewal replaces.

The timer starts before the renewal is sent, in the slot that is not in force. When ZooKeeper has
answered, this slot is put in force. A process that is stopped in between, however long, finds that
the timer has run out.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from maglev0.dataplane.nftables import message as nfmessage
from maglev0.dataplane.nftables import ruleset
from maglev0.dataplane.nftables.tables import Tables
from maglev0.errors import DataplaneError


class NftLeaseTimer:
    """The two lease slots in the tables of one VIP."""

    def __init__(self, tables: Tables, vip: IPv4Address, length_ms: int) -> None:
        self._tables = tables
        self._vip = vip
        self._table = ruleset.table_name(vip)
        self._length_ms = length_ms
        self._in_force: str | None = None  # the slot that the kernel's map names
        self._armed: str | None = None

    def adopt(self) -> None:
        """Learn from the kernel which slot is in force.

        A timer that another process armed beside it is not used.
        """
        self._in_force = self._read_slot()
        self._armed = None

    def arm(self) -> None:
        """Start the timer of the slot that is not in force."""
        first, second = ruleset.LEASES
        slot = second if self._in_force == first else first
        # Before 6.12 the kernel does not change the timeout of an element that exists.
        self._tables.run(
            nfmessage.empty(self._table, slot),
            nfmessage.add_address(self._table, slot, self._vip, self._length_ms),
        )
        self._armed = slot

    def promote(self) -> None:
        """Put in force the slot that was armed.

        DataplaneError when none was armed, or when `drop`, `restore` or `adopt` came since.
        """
        if self._armed is None:
            raise DataplaneError(
                f"promoting the lease of {self._vip}: no armed timer, the lease was dropped "
                "meanwhile"
            )
        self._tables.run(
            nfmessage.empty(self._table, ruleset.LEASE_SLOT),
            nfmessage.add_goto(self._table, ruleset.LEASE_SLOT, self._vip, self._armed),
        )
        self._in_force, self._armed = self._armed, None

    def drop(self) -> None:
        """End both timers."""
        self._armed = None
        self._tables.run(*(nfmessage.empty(self._table, slot) for slot in ruleset.LEASES))

    def restore(self) -> bool:
        """End the lease when another program changed the slot in force; return whether it did."""
        if self._read_slot() == self._in_force:
            return False
        self.drop()
        self.adopt()
        return True

    def _read_slot(self) -> str | None:
        return self._tables.reader.goto(ruleset.LEASE_SLOT)
