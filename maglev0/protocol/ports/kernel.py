"""What carries out ownership in the kernel, behind two narrow interfaces.

New flows (TCP's pure SYNs, and every packet of other protocols) are accepted where two things hold at once: their bucket is *in force*, and the
*lease* runs. Both are the kernel's own state, so they are what they are whatever becomes of this process.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from maglev0.core.service import HashFamily


class Move(NamedTuple):
    """What one hand-over changes: the buckets that come into force, and those that cease to be. The two have nothing in common."""

    gains: frozenset[int]
    losses: frozenset[int]


class Commit(enum.Enum):
    """How far a loaded move has come in the kernel."""

    RELEASE = "release"
    ACQUIRE = "acquire"


class Connections(NamedTuple):
    """The TCP connections to the VIP that this host holds: the buckets in which there is any, and how many of them still live."""

    buckets: frozenset[int]
    alive: int


class Count(NamedTuple):
    """Packets as the kernel handles them, some merged on arrival (GRO), and their bytes."""

    packets: int
    bytes: int


class Counters(NamedTuple):
    """What became of the packets that arrived for the VIP, by the stage that said so; `None` where nobody counts that here.

    *xdp* and *early* refuse what falls in no admitted bucket; the rest is accepted or refused by the second stage: `new_flows` are TCP's pure SYNs,
    `established` belongs to TCP connections, errors about them included, `other` are packets of other protocols. CLUSTERIP's own target does not
    tell what it refuses: `judged` came as far as to it. Each begins at 0 again where what counts was made anew.
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


class Gate(Protocol):
    """What a hand-over asks of the kernel.

    Every method may raise `DataplaneError`, with nothing half-done that the next call could not repair; each may be called again after a failure.
    """

    async def stage(self, move: Move) -> None:
        """Put gains and losses beside what is in force; nothing changes yet for new flows.

        A move loaded before is settled first: what of it was flipped stays so, the rest of it is forgotten.
        """

    async def commit(self, to: Commit) -> None:
        """Carry the loaded move further, in one small transaction: RELEASE: its losses cease to be in force; then ACQUIRE: its gains are."""

    async def arm(self) -> None:
        """Start the timer of a lease, full length from now, in the slot that is not in force; new flows are judged by the other one still."""

    async def promote(self) -> None:
        """Put in force the slot that `arm` started: how much time is left in it has been running since then, whatever happened in between."""

    async def drop(self) -> None:
        """End the lease now: no new flow is accepted from here on until the next `arm` and `promote`."""

    async def owned(self) -> frozenset[int]:
        """The buckets in force now, read back from the kernel."""

    async def flows(self) -> Connections:
        """The TCP connections that this host holds. Where it cannot keep those of buckets that moved, there are none."""

    async def unpin(self, buckets: frozenset[int]) -> None:
        """Connections in these buckets need not be kept any more; of those in force or loaded to be, nothing changes."""


class Dataplane(Gate, Protocol):
    """One `Service` in one kernel.

    Made cheaply, without touching the kernel; then `open`, any number of the `Gate`'s calls, `disturbed` and `repair`, then `close`.
    The calls are never made side by side, `disturbed` apart.
    """

    family: HashFamily

    async def open(self) -> None:
        """Make the kernel ready to serve, in the order that never answers for a bucket that is not in force: rules, ARP, then the address.

        What an earlier daemon left is adopted, its running lease, its buckets in force and its kept connections included, and repaired where
        it differs; new flows are accepted as they were. A move that was loaded but not flipped is forgotten.
        """

    async def counters(self) -> Counters | None:
        """What the kernel counted of the VIP's packets; `None` where there is no kernel."""

    async def kept(self) -> frozenset[int]:
        """The buckets out of force in which connections are kept, read back from the kernel."""

    @property
    def early_drop(self) -> str:
        """What refuses foreign packets before the stack does: the kind of XDP, or "off"."""

    def distrust(self) -> None:
        """Have the next `repair` compare everything with the kernel, even what nobody else should have been able to change."""

    async def disturbed(self) -> None:
        """Return once something outside may have changed what this dataplane relies on; the caller then calls `repair`."""

    async def repair(self) -> tuple[str, ...]:
        """Restore what others took away, and name each thing restored; empty when nothing was missing.

        The lease is not restored but ended where rules had to be: the next renewal brings it back.
        Raises `DataplaneError` when something cannot be restored (the link is down or gone): the node cannot serve until a later call succeeds.
        """

    async def close(self) -> None:
        """Remove what was added, in the reverse order of `open`; what was found there stays. Safe after a failed `open`, and twice."""
