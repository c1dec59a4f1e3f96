"""What carries out ownership in the kernel, behind one narrow interface."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from maglev0.service import HashFamily


class Change(NamedTuple):
    """The buckets that one `Dataplane.apply` really added to and removed from the kernel."""

    added: frozenset[int]
    removed: frozenset[int]


class Dataplane(Protocol):
    """One `Service` in one kernel.

    Made cheaply, without touching the kernel; then `open`, any number of `apply`, `owned`, `disturbed` and `repair`, then `close`.
    Every method but `disturbed` may raise `DataplaneError`, with nothing half-done that the next call could not repair.
    """

    family: HashFamily

    async def open(self) -> None:
        """Make the kernel ready to serve, in the order that never answers for a bucket that is not in force: rules, ARP, then the address.

        What an earlier daemon left is adopted (its owned buckets stay in force until the first `apply`), and repaired where it differs.
        """

    async def apply(self, owned: frozenset[int]) -> Change:
        """Own exactly these buckets, touching only the differences; applying the same set twice changes nothing."""

    async def owned(self) -> frozenset[int]:
        """The buckets that the kernel holds now, read back from it."""

    async def disturbed(self) -> None:
        """Return once something outside may have changed what this dataplane relies on; the caller then calls `repair`."""

    async def repair(self) -> tuple[str, ...]:
        """Restore what others took away, and name each thing restored; empty when nothing was missing.

        Raises `DataplaneError` when something cannot be restored (the link is down or gone): the node cannot serve until a later call succeeds.
        """

    async def close(self) -> None:
        """Remove what was added, in the reverse order of `open`; what was found there stays. Safe after a failed `open`, and twice."""
