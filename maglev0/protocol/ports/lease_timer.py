"""The port through which a node starts, puts in force and ends the lease in its kernel."""

from __future__ import annotations

from typing import Protocol


class LeaseTimer(Protocol):
    """The kernel's lease: two slots, of which one is in force, each with a timer of its own.

    Every method may raise `DataplaneError`, and may be called again after a failure.
    """

    async def arm(self) -> None:
        """Start the timer of the slot that is not in force, with the full length of a lease.

        New flows are still judged by the other slot.
        """

    async def promote(self) -> None:
        """Put in force the slot that `arm` started; its timer has been running since then.

        Each `arm` is worth one `promote`. Raises `DataplaneError` where no `arm` came since the
        last `promote` or `drop`, or where a repair ended the armed timer: the caller must never
        believe in a lease that the kernel does not have.
        """

    async def drop(self) -> None:
        """End the lease now, and the timer that was armed.

        The kernel accepts no new flow until the next `arm` and `promote`.
        """
