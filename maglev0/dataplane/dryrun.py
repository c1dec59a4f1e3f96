"""The dataplane of ``--dry-run``: remembers what it would own and touches no kernel."""

from __future__ import annotations

import asyncio

from maglev0.dataplane import Change
from maglev0.service import HashFamily


class DryRun:
    """A `Dataplane` that only remembers."""

    def __init__(self, family: HashFamily) -> None:
        self.family = family
        self._owned: frozenset[int] = frozenset()

    async def open(self) -> None:
        """Nothing is made ready."""

    async def apply(self, owned: frozenset[int]) -> Change:
        """Remember the set."""
        change = Change(owned - self._owned, self._owned - owned)
        self._owned = owned
        return change

    async def owned(self) -> frozenset[int]:
        """Return the remembered set."""
        return self._owned

    async def disturbed(self) -> None:
        """Nobody can disturb it: never return."""
        await asyncio.Event().wait()

    async def repair(self) -> tuple[str, ...]:
        """Nothing can be missing."""
        return ()

    async def close(self) -> None:
        """Nothing was added."""
