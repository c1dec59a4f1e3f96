"""The port through which a node makes its kernel ready, keeps it so, and cleans it up."""

from __future__ import annotations

from typing import Protocol


class Upkeep(Protocol):
    """What must stand in the kernel around buckets and lease: rules, ARP, cluster MAC, address."""

    async def open(self) -> None:
        """Make the kernel ready to serve: rules, ARP, then the address.

        In that order the node never answers for a bucket that is not in force. What an earlier
        daemon left is adopted, its running lease, its buckets in force and its kept connections
        included, and repaired where it differs; new flows are accepted as before. A move that was
        staged but not committed is discarded. Raises `DataplaneError`; `UnavailableError` for what
        waiting does not change.
        """

    async def disturbed(self) -> None:
        """Return once something outside may have changed what this dataplane relies on.

        The caller then calls `repair`. The only call that may run beside others.
        """

    async def repair(self) -> tuple[str, ...]:
        """Restore what others took away, and name each thing restored; empty where nothing was.

        A repair of the rules does not restore the lease but ends it: the next renewal brings it
        back. Raises `DataplaneError` when something cannot be restored (the link is down or gone):
        the node cannot serve until a later call succeeds.
        """

    def distrust(self) -> None:
        """Make the next `repair` compare everything with the kernel.

        That includes what only this process should have been able to change.
        """

    async def close(self) -> None:
        """Remove what was added, in the reverse order of `open`; what was found there stays.

        Safe after a failed `open`, and twice.
        """
