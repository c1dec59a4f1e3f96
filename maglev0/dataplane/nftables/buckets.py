"""The buckets in the kernel: in force, staged, and admitted by the early stage.

Two slots are used in turn. One is in force. A move is staged by filling the other one, which no
rule reads meanwhile. Commit(release) puts both slots in force at once, so what either lacks is
released; commit(acquire) puts the other one in force alone. Each time one element of a map is
replaced, whatever the number of buckets. The slots need no notes beside them, so any process can
adopt them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from maglev0.core.service import Service
from maglev0.core.transition import Move
from maglev0.dataplane.nftables import message as nfmessage
from maglev0.dataplane.nftables import ruleset
from maglev0.dataplane.nftables.tables import Tables
from maglev0.dataplane.xdp.filter import XdpFilter
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.gate import Commit

# elements in one transaction, some 4 ms; signals, the watchdog and renewals are served in between
PIECE = nfmessage.MAX_ELEMENTS
_SETS = (ruleset.ADMITTED, *ruleset.OWNED)


class BucketSets:
    """The sets of buckets in the tables of one service.

    What they should hold is remembered, and changes when the kernel has changed. The XDP filter
    judges before the early stage, so it admits buckets before the early stage does and refuses them
    after it.
    """

    def __init__(self, tables: Tables, service: Service, xdp_filter: XdpFilter) -> None:
        self._tables = tables
        self._xdp_filter = xdp_filter
        self._service = service
        self._table = ruleset.table_name(service.vip)
        self._held: dict[str, set[int]] = {name: set() for name in _SETS}
        self._slot = ruleset.OWNED[0]  # or the other one, or both
        self._coming: str | None = None  # the slot with a staged move
        self._let_in: frozenset[int] = frozenset()  # what was admitted for that move alone
        self._apart: frozenset[int] | None = None  # where the two slots may differ; None: anywhere

    async def adopt(self) -> None:
        """Adopt what the kernel holds.

        A move that another process staged and did not commit is given up.
        """
        self._held = {name: set(await self._read(name)) for name in _SETS}
        self._coming, self._let_in, self._apart = None, frozenset(), None
        slot = self._read_slot()
        if slot is None:
            self._point(ruleset.OWNED[0])
        else:
            self._slot = slot

    @property
    def admitted(self) -> frozenset[int]:
        """What the early stage admits, as the numbers that its set holds."""
        return frozenset(self._held[ruleset.ADMITTED])

    async def admit(self, buckets: Iterable[int]) -> None:
        """Let the early stage admit these buckets too: connections are kept in them."""
        await self._readmit(
            frozenset(), ruleset.elements(self._service, buckets) - self._held[ruleset.ADMITTED]
        )

    async def stage(self, move: Move) -> None:
        """See `Gate.stage`."""
        gains, losses = (ruleset.elements(self._service, buckets) for buckets in move)
        await self._settle(gains)
        coming = _other(self._slot)
        present, other = self._held[self._slot], self._held[coming]
        # The sets are large and most moves small, so only what can differ is compared.
        touched = gains | losses | (present ^ other if self._apart is None else self._apart)
        wanted = gains | ((touched & present) - losses)
        self._apart = touched
        await self._change(coming, (touched & other) - wanted, wanted - other)
        self._apart = gains | losses
        let_in = gains - self._held[ruleset.ADMITTED]
        self._let_in |= let_in
        await self._readmit(frozenset(), let_in)
        self._coming = coming

    async def _settle(self, gains: frozenset[int]) -> None:
        """Have one slot in force, and nothing admitted for a move that was given up.

        What the next move `gains` too stays admitted.
        """
        self._coming = None
        if self._slot == ruleset.OWNED_BOTH:
            first, second = ruleset.OWNED
            await self._change(first, self._held[first] - self._held[second], frozenset())
            self._point(first)
        given_up = (self._let_in - gains) & self._held[ruleset.ADMITTED]
        await self._readmit(given_up, frozenset())
        self._let_in -= given_up

    def commit(self, to: Commit) -> None:
        """See `Gate.commit`."""
        if self._coming is None:
            raise DataplaneError("committing in nftables: no move is staged")
        if to is Commit.ACQUIRE:
            self._point(self._coming)
            self._let_in = frozenset()
        elif self._slot != self._coming:
            self._point(ruleset.OWNED_BOTH)

    async def owned(self) -> frozenset[int]:
        """See `Readings.owned`."""
        return ruleset.buckets(self._service, await self._read_in_force())

    async def kept(self) -> frozenset[int]:
        """See `Readings.kept`."""
        needed = await self._read_in_force()
        if self._coming:
            needed |= await self._read(self._coming)
        return ruleset.buckets(self._service, await self._read(ruleset.ADMITTED) - needed)

    async def unpin(self, buckets: frozenset[int]) -> None:
        """See `Gate.unpin`."""
        needed = self._in_force() | (self._held[self._coming] if self._coming else set())
        unneeded = ruleset.elements(self._service, buckets) - needed
        await self._readmit(unneeded & self._held[ruleset.ADMITTED], frozenset())

    async def restore(self) -> bool:
        """Make the kernel hold what it should; return whether it held something else."""
        wrong = self._read_slot() != self._slot
        if wrong:
            self._point(self._slot)
        self._apart = None
        for name in _SETS:
            wrong |= await self._replace(name, set(await self._read(name)), self._held[name])
        return wrong

    async def _readmit(self, removed: AbstractSet[int], added: AbstractSet[int]) -> None:
        """Change what is admitted: the XDP filter admits first and refuses last."""
        self._xdp_filter.admit(added)
        await self._change(ruleset.ADMITTED, removed, added)
        self._xdp_filter.refuse(removed)

    async def _replace(self, name: str, held: set[int], wanted: Iterable[int]) -> bool:
        """Make a set hold what is wanted, removals first; return whether it held something else.

        `held` is what the set holds, and follows each step.
        """
        wanted = frozenset(wanted)
        removed, added = held - wanted, wanted - held
        await self._put(name, held, removed, added)
        return bool(removed or added)

    async def _change(self, name: str, removed: AbstractSet[int], added: AbstractSet[int]) -> None:
        """Remove some numbers from what a set holds, and add others."""
        await self._put(name, self._held[name], removed, added)

    async def _put(
        self, name: str, held: set[int], removed: AbstractSet[int], added: AbstractSet[int]
    ) -> None:
        for change, numbers, note in (
            (nfmessage.delete_numbers, removed, held.difference_update),
            (nfmessage.add_numbers, added, held.update),
        ):
            listed = sorted(numbers)
            for start in range(0, len(listed), PIECE):
                piece = listed[start : start + PIECE]
                self._tables.run(change(self._table, name, piece))
                note(piece)
                await asyncio.sleep(0)

    def _in_force(self) -> frozenset[int]:
        return frozenset.intersection(
            *(frozenset(self._held[name]) for name in _sets_of(self._slot))
        )

    async def _read_in_force(self) -> frozenset[int]:
        slot = self._read_slot()
        sets = [await self._read(name) for name in _sets_of(slot)] if slot else [frozenset[int]()]
        return frozenset.intersection(*sets)

    def _point(self, slot: str) -> None:
        """Put one slot or both in force, in one small transaction."""
        vip = self._service.vip
        self._tables.run(
            nfmessage.empty(self._table, ruleset.OWNED_SLOT),
            nfmessage.add_goto(self._table, ruleset.OWNED_SLOT, vip, slot),
        )
        self._slot = slot

    async def _read(self, name: str) -> frozenset[int]:
        return await self._tables.reader.elements(name)

    def _read_slot(self) -> str | None:
        return self._tables.reader.goto(ruleset.OWNED_SLOT)


def _other(slot: str) -> str:
    first, second = ruleset.OWNED
    return second if slot == first else first


def _sets_of(slot: str) -> tuple[str, ...]:
    """Return the sets that a bucket must be in to be in force."""
    return ruleset.OWNED if slot == ruleset.OWNED_BOTH else (slot,)
