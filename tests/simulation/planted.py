"""Planted faults: the protocol with one of its rules broken.

The adversary has to find each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from maglev0.core import view as views
from maglev0.core.view import Child, View, ViewId
from maglev0.errors import DataplaneError
from maglev0.protocol.handover import HandOver, Phase
from maglev0.protocol.joining import Joining
from maglev0.protocol.lease import Others
from maglev0.protocol.membership import LeaseZnode, Membership, Seen, view_id
from maglev0.protocol.participant import Participant
from maglev0.protocol.renewal import Renewal
from tests.simulation.node import Make, share


class AcquiresEarly(HandOver):
    """Acquires before the others have acknowledged that they released."""

    def may_acquire_at(self) -> float:
        return (
            math.inf
            if self.secure is None or self.secure != self.view_id
            else self.others.over_at()
        )


class WaitsForRememberedOwners(HandOver):
    """Waits only for those who owned what it gains in the view that it saw before."""

    buckets = 0
    before: View | None = None

    def see(self, view: View, mine: frozenset[int], now_s: float) -> None:
        self.before = self.view
        super().see(view, mine, now_s)

    def lacking(self, stage: Phase) -> frozenset[int]:
        lacking = super().lacking(stage)
        if stage is not Phase.RELEASED or self.before is None:
            return lacking
        members = self.before.members
        return lacking & {
            one.id
            for one in members
            if share(self.before, self.buckets, one.name) & self.move.gains
        }


class TrustsStragglers(HandOver):
    """Waits out the lease of a straggler, but for no renewal of its own after that."""

    def may_acquire_at(self) -> float:
        if self.secure is None or self.secure != self.view_id:
            return math.inf
        return max(
            self.others.over_at(),
            self.straggling_until if self.lacking(Phase.RELEASED) else -math.inf,
        )


class KeepsAcrossLapses(HandOver):
    """Keeps what it holds, though its lease lapsed while it changed its view."""

    def must_empty(self, now_s: float) -> bool:
        self.secure = self.secure or self.obeys
        return now_s < 0

    def may_promote(self, shown: ViewId | None, now_s: float) -> bool:
        return shown is not None and shown == self.obeys and now_s >= 0


class ComparesNoViews(HandOver):
    """Takes a renewal for worth a lease whatever view it showed."""

    def may_promote(self, shown: ViewId | None, now_s: float) -> bool:
        return self.obeys is not None and (shown is None or now_s >= 0)

    def renewed(self, shown: ViewId, sent_after_s: float) -> None:
        super().renewed(self.obeys or shown, sent_after_s)


class WaitsForEver(HandOver):
    """Waits for every acknowledgement, however long that takes."""

    @property
    def barrier_at(self) -> float:
        return math.inf


class TrustsVanishedZnodes(Others):
    """Takes a vanished znode for a lease that is over."""

    def over_at(self) -> float:
        return -math.inf


class AsksForKnownMembersOnly(Others):
    """Asks for no leases but those of members that it saw."""

    def last_changed(self, member: int, zxid: int, date_s: float) -> None:
        if member in self._ends:
            super().last_changed(member, zxid, date_s)


class ArmsLate(Renewal):
    """Starts the lease's timer when the answer is there."""

    async def _worth(self, shown: ViewId | None, started_at: float) -> None:
        await self._environment.lease_timer.arm()
        await super()._worth(shown, started_at)


class BelievesInDroppedLeases(Renewal):
    """Takes a lease for renewed whose timer was dropped before it could be promoted."""

    async def _worth(self, shown: ViewId | None, started_at: float) -> None:
        with suppress(DataplaneError):
            await super()._worth(shown, started_at)
            return
        if shown is not None:
            self._state.handover.renewed(shown, started_at)


class ReadsInParts(Membership):
    """Reads a view without looking whether it changed meanwhile."""

    async def _read_view(self, total_nodes: int) -> Seen | None:
        listed = await self._zookeeper.children(self._paths.members, watch=True)
        if listed is None:
            return await super()._read_view(total_nodes)
        ids, _foreign = views.candidate_ids(listed[0], total_nodes)
        nodes = await self._zookeeper.get_all([f"{self._paths.members}/{name}" for name in ids])
        parent = await self._zookeeper.get(self._paths.members, watch=True)
        if parent is None:
            return None
        present = {name: node for name, node in zip(ids, nodes, strict=True) if node is not None}
        members, _ignored = views.read_members(
            Child(name, node.data, node.stat.owner, node.stat.mzxid)
            for name, node in present.items()
        )
        seen = View(
            view_id(parent.stat),
            members,
            frozenset((name, node.stat.czxid) for name, node in present.items()),
        )
        return Seen(seen, {int(name): node for name, node in present.items()})


class RejoinsFull(Joining):
    """Joins with whatever is still in force, and under the lease that still runs."""

    async def _let_go(self) -> None:
        await self.know_held()


class OverwritesFormerLives(Joining):
    """Joins over the running lease of its id's former life on another kernel."""

    async def leases(self, beside: Collection[int]) -> dict[int, LeaseZnode]:
        found = await super().leases(beside)
        self._state.handover.others.forget(frozenset({self._state.me.id}))
        return found


class ForgetsConnections(Participant):
    """Forgets that buckets which it released have connections."""

    async def _release(self) -> float:
        pause_s = await super()._release()
        if self.handover.stage is Phase.RELEASED:
            await self._environment.gate.unpin(self.handover.move.losses)
        return pause_s


def _with(part: Callable[[Participant], object], kind: type) -> Make:
    """Every participant with that part of it replaced by one that breaks a rule."""

    def make(*arguments: Any, **more: Any) -> Participant:
        participant = Participant(*arguments, **more)
        part(participant).__class__ = kind
        if isinstance(participant.handover, WaitsForRememberedOwners):
            participant.handover.buckets = more["total_nodes"]
        return participant

    return Make(participant=make)


def _handover(participant: Participant) -> object:
    return participant.handover


def _others(participant: Participant) -> object:
    return participant.handover.others


def _renewal(participant: Participant) -> object:
    return participant.renewal


def _joining(participant: Participant) -> object:
    return participant.joining


def _membership(participant: Participant) -> object:
    return participant._membership


PLANTED = {
    "acquires before the release is acknowledged": _with(_handover, AcquiresEarly),
    "waits only for the owners that it remembers": _with(_handover, WaitsForRememberedOwners),
    "starts the lease's timer after the answer": _with(_renewal, ArmsLate),
    "believes in a lease that was dropped": _with(_renewal, BelievesInDroppedLeases),
    "renews without comparing views": _with(_handover, ComparesNoViews),
    "takes a vanished znode for a lease that is over": _with(_others, TrustsVanishedZnodes),
    "reads a view in parts": _with(_membership, ReadsInParts),
    "forgets the connections of what it released": Make(participant=ForgetsConnections),
    "waits for an acknowledgement without a bound": _with(_handover, WaitsForEver),
    "takes a session back with another timeout": Make(takes_back=lambda _left, _timeout_s: True),
    "leaves out members that it never saw": _with(_others, AsksForKnownMembersOnly),
    "keeps its buckets over a lapsed lease": _with(_handover, KeepsAcrossLapses),
    "asks for no renewal after a straggler's lease": _with(_handover, TrustsStragglers),
    "joins again with its kernel full": _with(_joining, RejoinsFull),
    "joins over the lease of its former life": _with(_joining, OverwritesFormerLives),
}
