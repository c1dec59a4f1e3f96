"""The dataplane calls of a hand-over and of a renewal, in one step each."""

from __future__ import annotations

from maglev0.core.transition import Move
from maglev0.protocol.ports.dataplane import Dataplane
from maglev0.protocol.ports.gate import Commit

ENDLESS_MS = 3_600_000  # a lease that outlasts any test


async def own(dataplane: Dataplane, wanted: frozenset[int]) -> Move:
    """Put exactly these buckets in force; return the change."""
    held = await dataplane.owned()
    move = Move(gains=wanted - held, losses=held - wanted)
    await dataplane.stage(move)
    await dataplane.commit(Commit.RELEASE)
    await dataplane.commit(Commit.ACQUIRE)
    return move


async def renew(dataplane: Dataplane) -> None:
    """Renew the lease for its whole length from now."""
    await dataplane.arm()
    await dataplane.promote()
