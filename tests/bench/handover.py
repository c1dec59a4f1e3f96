"""From a change of the members to the last bucket flipped, by part.

`python -m tests.bench.handover`, as root; a minute.

One real `NodeDriver` on a real nftables dataplane in a namespace of its own. Its ZooKeeper answers
at once, and the other members have acknowledged whatever it asks about, so what is measured is all
that a node does by itself, and no waiting.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import NamedTuple, cast

from maglev0.core.assignment import decide
from maglev0.core.failover_plans import FailoverPlans
from maglev0.core.service import HashFamily, HashMode
from maglev0.core.settings import Settings
from maglev0.core.transition import Move
from maglev0.core.view import View, ViewId
from maglev0.daemon.idle_work import PLANS_PART
from maglev0.daemon.node_driver import NodeDriver
from maglev0.daemon.reconciler import Reconciler
from maglev0.daemon.supervisor import SWITCH_INTERVAL_S
from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.protocol.handover import Phase
from maglev0.protocol.ports.gate import Commit
from maglev0.protocol.ports.zookeeper import Operation, Write
from maglev0.runtime.waiting import in_thread
from tests.bench.sheet import Cell, Sheet, publish
from tests.support.lone_node import ME, PATHS
from tests.support.members import viewed
from tests.support.one_host import one_host
from tests.support.through import Through, gone, joining, weighing

BUCKETS = 65_537
MEMBERS = (3, 30, 100)
ROUNDS = 7
LIMIT_MS = 40.0
VANISHING_LIMIT_MS = 10.0
LEASE_MS = 20_000  # so long that no renewal falls into a measured hand-over but its own
SETTLE_S = 0.3
VIP = IPv4Address("198.51.100.1")
SETTINGS = Settings(
    BUCKETS, HashMode.SOURCE_IP, 7, HashFamily.NFTABLES, "03:bf:c6:33:64:01", LEASE_MS
)
TITLE = (
    f"a hand-over at {BUCKETS:,} buckets, as one node sees it; limits of "
    f"the sum: {LIMIT_MS:g} ms, {VANISHING_LIMIT_MS:g} ms when one member "
    "vanishes"
)
NOTE = (
    f"Medians of {ROUNDS} changes each, members in turn. Watch: from its "
    "callback in another thread to the loop having read the view; "
    "table: to the node's share; difference: to the kernel's being called; "
    "kernel: load and flips; protocol: acknowledgements and the renewal "
    "in between. ZooKeeper answers at once, and the others have "
    "acknowledged. Before each change nothing is kept of the one before."
)
AHEAD = ("members", "processor s", "done after s", "longest step ms", "kept KiB")
AHEAD_NOTE = (
    "The absence of each other member, once after each change of the "
    "members, in the pauses of a node at rest; after that it costs nothing."
)
PARTS = ("watch", "table", "difference", "kernel", "protocol")


class Marks:
    """When what of one hand-over happened, in seconds of one clock.

    `kernel_s` is the time of all calls of the kernel.
    """

    def __init__(self) -> None:
        self.fired = self.seen = self.shared = self.loading = self.flipped = 0.0
        self.kernel_s = 0.0
        self.move = Move(frozenset(), frozenset())

    def parts_ms(self) -> tuple[float, ...]:
        """The parts, in the order of `PARTS`, which add up to the whole."""
        whole_s = self.flipped - self.fired
        first = (
            self.seen - self.fired,
            self.shared - self.seen,
            self.loading - self.shared,
            self.kernel_s,
        )
        return tuple(1e3 * part_s for part_s in (*first, whole_s - sum(first)))


class Watched(Nftables):
    """The dataplane, which notes what it is asked and how long that takes."""

    def __init__(self, marks: Callable[[], Marks]) -> None:
        super().__init__(SETTINGS.service(VIP, "eth0"), LEASE_MS)
        self._marks = marks

    async def stage(self, move: Move) -> None:
        marks = self._marks()
        marks.move, marks.loading = move, time.perf_counter()
        await self._timed(super().stage(move))

    async def commit(self, to: Commit) -> None:
        await self._timed(super().commit(to))
        self._marks().flipped = time.perf_counter()

    async def _timed(self, call: Awaitable[None]) -> None:
        start_s = time.perf_counter()
        await call
        self._marks().kernel_s += time.perf_counter() - start_s


class Measured(NodeDriver):
    """The node itself, which notes when it asks for its share and has it."""

    marks = Marks()

    def has_share_of(self, view: ViewId) -> bool:
        handover = self._part.handover
        return handover.view_id == handover.secure == view and handover.stage is Phase.ACQUIRED

    async def progressed(self) -> None:
        await self._view.next_round()

    async def swept(self) -> None:
        await self._sweeper.sweep()

    def foresee(self) -> None:
        while self._planner.work():
            pass

    def weigh(self, weight: int) -> Operation:
        """Change the node's own weight, as its own writing of its record would."""
        node_state = self._part.node_state
        assert node_state.record_version is not None
        node_state.wish(node_state.me.state, weight)
        node_state.record_version += 1
        return Write(PATHS.member(ME.id), node_state.me.encode(), -1)

    async def _share(self, view: View) -> frozenset[int]:
        marks = self.marks
        marks.seen = time.perf_counter()
        share = await super()._share(view)
        marks.shared = time.perf_counter()
        return share


class Cost(NamedTuple):
    """Of one hand-over: how many buckets came and went, and the time of each of `PARTS` in
    milliseconds.
    """

    gains: int
    losses: int
    parts_ms: tuple[float, ...]


class Bench:
    """The node in its cluster."""

    def __init__(self, members: int) -> None:
        self.others = range(ME.id + 1, members + 1)
        self.upkeep = Reconciler(Watched(lambda: self.node.marks), lambda: None)
        self.cluster = Through(SETTINGS, self.upkeep, Measured, members + ROUNDS)
        self.node = cast("Measured", self.cluster.node)

    async def measured(
        self, *operations: Operation, own_weight: int | None = None, foreseen: bool = False
    ) -> Cost:
        """Have the members changed like that while the node is at rest, and wait until it is so
        again.
        """
        await self.rest(foreseen=foreseen)
        marks = self.node.marks = Marks()
        own = [] if own_weight is None else [self.node.weigh(own_weight)]
        self.cluster.commit(*operations, *own)
        loop = asyncio.get_running_loop()

        def fire() -> None:
            """As kazoo's thread does when a watch fires."""
            marks.fired = time.perf_counter()
            loop.call_soon_threadsafe(self.node.notice, PATHS.members)

        await in_thread(fire)
        await self.settled()
        return Cost(len(marks.move.gains), len(marks.move.losses), marks.parts_ms())

    async def settled(self) -> None:
        """Return when the node has its share of the current view."""
        while not self.node.has_share_of(self.cluster.zookeeper.view):
            await self.node.progressed()

    async def rest(self, *, foreseen: bool) -> None:
        """As after seconds in which nothing happened, so that nothing is kept any more.

        Or minutes, and everything is foreseen.
        """
        for _look in range(2):
            await self.node.swept()
        await asyncio.sleep(SETTLE_S)
        if foreseen:
            self.node.foresee()

    async def round(self, number: int) -> dict[str, Cost]:
        """One change of each kind, and back."""
        member, second = (self.others[(number + step) % len(self.others)] for step in range(2))
        stranger = self.others[-1] + 1 + number
        costs = {
            "a member vanishes": await self.measured(gone(member), foreseen=True),
            "it comes back": await self.measured(joining(member)),
            "a new member joins": await self.measured(joining(stranger)),
            "it leaves again": await self.measured(gone(stranger)),
            "another's weight, 1 to 2": await self.measured(weighing(member, 2)),
            "another's weight, 2 to 3": await self.measured(weighing(member, 3)),
            "two vanish at once": await self.measured(gone(member), gone(second)),
        }
        await self.measured(joining(member), joining(second))
        costs["its own weight, 1 to 2"] = await self.measured(own_weight=2)
        costs["its own weight, 2 to 3"] = await self.measured(own_weight=3)
        await self.measured(own_weight=0)
        costs["it joins with nothing"] = await self.measured(own_weight=1)
        return costs


async def costs(members: int) -> dict[str, list[Cost]]:
    """All rounds at one size of cluster."""
    bench = Bench(members)
    await bench.cluster.found(bench.others)
    await bench.upkeep.open()
    try:
        async with asyncio.TaskGroup() as group:
            following = group.create_task(bench.node.follow())
            await bench.settled()
            rounds = [await bench.round(number) for number in range(ROUNDS)]
            following.cancel()
    finally:
        await bench.upkeep.close()
    return {change: [one[change] for one in rounds] for change in rounds[0]}


def row(members: int, change: str, found: list[Cost]) -> tuple[Cell, ...]:
    sums_ms = [sum(cost.parts_ms) for cost in found]
    parts_ms = [
        statistics.median(part) for part in zip(*(cost.parts_ms for cost in found), strict=True)
    ]
    moved = statistics.median(cost.gains + cost.losses for cost in found)
    return change, members, round(moved), *parts_ms, statistics.median(sums_ms), max(sums_ms)


def ahead(members: int) -> tuple[Cell, ...]:
    """What it takes to foresee the absence of each, by the processor's time."""
    view = viewed(replace(ME, id=number) for number in range(1, members + 1))
    foresight = FailoverPlans(ME.name, BUCKETS, dry_run=False)
    foresight.decided(view, decide(view, BUCKETS, dry_run=False))
    steps_ns = [time.thread_time_ns()]
    while foresight.step():
        steps_ns.append(time.thread_time_ns())
    longest_ns = max(after - before for before, after in itertools.pairwise(steps_ns))
    whole_s = (steps_ns[-1] - steps_ns[0]) / 1e9
    kept = sum(
        numbers.itemsize * len(numbers)
        for absence in foresight._absences.values()
        for numbers in absence
    )
    return members, whole_s, whole_s / PLANS_PART, longest_ns / 1e6, kept / 1024


def run() -> tuple[Sheet, ...]:
    """Measure in a network namespace of our own."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with one_host():
        found = {members: asyncio.run(costs(members)) for members in MEMBERS}
    rows = tuple(
        row(members, change, some)
        for members, changes in found.items()
        for change, some in changes.items()
    )
    parts = tuple(f"{part} ms" for part in PARTS)
    return (
        Sheet(
            "handover",
            TITLE,
            ("change", "members", "buckets moved", *parts, "sum ms", "worst ms"),
            rows,
            NOTE,
        ),
        Sheet(
            "foresight",
            f"looking ahead at {BUCKETS:,} buckets",
            AHEAD,
            tuple(map(ahead, MEMBERS)),
            AHEAD_NOTE,
        ),
    )


def main() -> None:
    """Measure, show and keep it."""
    publish(*run())


if __name__ == "__main__":
    main()
