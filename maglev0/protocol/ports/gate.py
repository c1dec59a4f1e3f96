"""The port through which a hand-over changes the buckets that are in force."""

from __future__ import annotations

import enum
from typing import Protocol

from maglev0.core.transition import Move


class Commit(enum.Enum):
    """How far a staged move has come in the kernel."""

    RELEASE = "release"
    ACQUIRE = "acquire"


class Gate(Protocol):
    """The kernel's buckets.

    Every method may raise `DataplaneError`. It leaves nothing half-done that the next call could
    not repair, so each method may be called again after a failure.
    """

    async def stage(self, move: Move) -> None:
        """Put gains and losses beside what is in force; nothing changes yet for new flows.

        A move that was staged before is settled first: what of it was committed stays so, the rest
        is discarded.
        """

    async def commit(self, to: Commit) -> None:
        """Carry the staged move further, in one small transaction.

        RELEASE takes its losses out of force; then ACQUIRE puts its gains in force.
        """

    async def unpin(self, buckets: frozenset[int]) -> None:
        """Stop keeping the connections in these buckets.

        Nothing changes for buckets that are in force or staged to be.
        """
