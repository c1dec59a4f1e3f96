"""The dataplane of ``--dry-run``: it remembers what would be in force and touches no kernel."""

from __future__ import annotations

import asyncio

from maglev0.core.service import HashFamily
from maglev0.core.transition import Move
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.gate import Commit
from maglev0.protocol.ports.readings import Connections, Counters

_NOTHING = Move(frozenset(), frozenset())


class DryRun:
    """A `Dataplane` that only remembers."""

    def __init__(self, family: HashFamily) -> None:
        self.family = family
        self._owned: frozenset[int] = frozenset()
        self._move = _NOTHING
        self._is_armed = False

    async def open(self) -> None:
        """Do nothing."""

    async def stage(self, move: Move) -> None:
        """Remember the move."""
        self._move = move

    async def commit(self, to: Commit) -> None:
        """Carry out the move on the remembered set."""
        self._owned -= self._move.losses
        if to is Commit.ACQUIRE:
            self._owned |= self._move.gains

    async def arm(self) -> None:
        """Remember that a timer is armed; no packet asks for a lease."""
        self._is_armed = True

    async def promote(self) -> None:
        """See `LeaseTimer.promote`; no packet asks for a lease."""
        if not self._is_armed:
            raise DataplaneError("promoting the lease of a dry run: no armed timer")
        self._is_armed = False

    async def drop(self) -> None:
        """Forget an armed timer; no packet asks for a lease."""
        self._is_armed = False

    async def owned(self) -> frozenset[int]:
        """Return the remembered set."""
        return self._owned

    async def connections(self) -> Connections:
        """Return no connections."""
        return Connections(frozenset(), 0)

    async def counters(self) -> Counters | None:
        """Return None: no packet is judged."""
        return None

    async def unpin(self, buckets: frozenset[int]) -> None:
        """Do nothing: no bucket is kept."""

    async def kept(self) -> frozenset[int]:
        """Return no buckets."""
        return frozenset()

    @property
    def early_drop(self) -> str:
        """See `Statistics.early_drop`."""
        return "off"

    def distrust(self) -> None:
        """Do nothing: a dry run keeps no kernel state to compare."""

    async def disturbed(self) -> None:
        """Never return: no other program can change a dry run."""
        await asyncio.Event().wait()

    async def repair(self) -> tuple[str, ...]:
        """Return nothing: nothing can be missing."""
        return ()

    async def close(self) -> None:
        """Do nothing: nothing was added."""
