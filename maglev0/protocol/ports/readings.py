"""The ports through which others read what the kernel has, and what it counted."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Connections(NamedTuple):
    """The TCP connections to the VIP that this host holds.

    `buckets` are those in which there is any, `alive` counts the connections that still live.
    """

    buckets: frozenset[int]
    alive: int


class Readings(Protocol):
    """What the kernel has, read back from it. Every method may raise `DataplaneError`."""

    async def owned(self) -> frozenset[int]:
        """The buckets in force now."""

    async def kept(self) -> frozenset[int]:
        """The buckets out of force in which connections are kept."""

    async def connections(self) -> Connections:
        """The TCP connections that this host holds.

        None, where the kernel cannot keep the connections of buckets that moved.
        """


class Count(NamedTuple):
    """Packets as the kernel handles them, some merged on arrival (GRO), and their bytes."""

    packets: int
    bytes: int


class Counters(NamedTuple):
    """What became of the packets that arrived for the VIP, by the stage that decided it.

    `None` where nothing counts that here. *xdp* and *early* refuse what falls in no admitted
    bucket; the second stage accepts or refuses the rest: `new_flows` are TCP's pure SYNs,
    `established` belongs to TCP connections, errors about them included, `other` are packets of
    other protocols. CLUSTERIP's own target does not tell what it refuses: `judged` reached it. Each
    count begins at 0 again where what counts was created again.
    """

    xdp_passed: Count | None = None
    xdp_refused: Count | None = None
    early_refused: Count | None = None
    new_flows: Count | None = None
    established: Count | None = None
    other: Count | None = None
    no_lease: Count | None = None
    not_owned: Count | None = None
    not_established: Count | None = None
    judged: Count | None = None


class Statistics(Protocol):
    """What the kernel counts, and what counts it."""

    async def counters(self) -> Counters | None:
        """What the kernel counted of the VIP's packets; `None` where there is no kernel.

        May raise `DataplaneError`.
        """

    @property
    def early_drop(self) -> str:
        """What refuses foreign packets before the stack does: the kind of XDP, or "off"."""
