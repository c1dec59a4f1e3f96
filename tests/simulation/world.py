"""One schedule: a cluster, its adversary's time, and the promises that are watched meanwhile."""

from __future__ import annotations

import math
from functools import partial

from maglev0.protocol.handover import Phase
from tests.simulation.ensemble import Ensemble
from tests.simulation.kernel import Connection, Kernel, Temper, ViolationError
from tests.simulation.node import LEASE_MS, PATHS, Flags, Left, Make, Node, Site
from tests.simulation.scheduler import Process, Scheduler

RATE_SPREAD = 0.0045  # clocks differ by less than lease.DRIFT
QUIET_S = 14.0
STEP_S = 0.25
STEADY = 4  # steps in a row
MAKE = Make()


class World:
    """Everything there is in one schedule."""

    def __init__(self, seed: int, *, trace: bool = False, make: Make = MAKE) -> None:
        self.scheduler = Scheduler(seed, trace=trace)
        self.random = self.scheduler.random
        self.ensemble = Ensemble(self.scheduler)
        self.kernels: list[Kernel] = []
        self.nodes: dict[Kernel, Node] = {}
        self.excused = 0  # double answers that the known limit explains
        self.held = 0  # and those of who was told to hold
        self.hand_deleted: set[int] = set()  # whose leases were
        self.ack_deleted = False  # it stays away until the next view
        self.gap_bound_s = math.inf
        self.gaps: list[float] = []
        self.straggler: Kernel | None = None  # what its daemon is to take has to wait for it
        self._given_up: dict[
            int, float
        ] = {}  # when a daemon gave up a bucket in order that nobody has taken since
        self._opened = 0
        self._lives = 0
        temper = Temper(load_s=self.random.choice((0.001, 0.02, 0.1)), slow_loads=False)
        self.site = Site(
            self.scheduler, self.ensemble, self.random.choice((7, 8, 13)), temper, make
        )
        self.scheduler.after(0.5, self._open_connection)

    def add_host(self, number: int, flags: Flags = Flags()) -> Node:  # noqa: B008  an immutable value
        """Another host, with a daemon of that id."""
        rate = 1 + self.random.uniform(-RATE_SPREAD, RATE_SPREAD)
        return self.start(
            Kernel(
                f"kernel{len(self.kernels) + 1}", number, rate, self.random.uniform(0, 1e5), self
            ),
            flags,
        )

    def start(self, kernel: Kernel, flags: Flags, left: Left | None = None) -> Node:
        """A daemon on a kernel that has none."""
        if kernel not in self.nodes:
            self.kernels.append(kernel)
        self._lives += 1
        process = Process(
            self.scheduler, f"n{kernel.number}.{self._lives}@{kernel}", kernel.rate, kernel.offset_s
        )
        node = Node(self.site, kernel.number, kernel, process, flags, left)
        self.scheduler.trace(node, "starts", flags)
        self.nodes[kernel] = node
        return node

    def rehearse(self, host: Kernel) -> Node:
        """A dry run on a host whose kernel it does not touch.

        What it asks for goes into a kernel that nobody reaches.
        """
        return self.start(
            Kernel(host.name, host.number, host.rate, host.offset_s, self), Flags(dry_run=True)
        )

    @property
    def living(self) -> list[Node]:
        """The daemons that are there to stay."""
        return [node for node in self.nodes.values() if node.running]

    def close(self) -> None:
        """End all that still runs."""
        for node in self.nodes.values():
            node.process.end()

    def begins(self, kernel: Kernel, buckets: frozenset[int]) -> None:
        """A kernel begins to accept in buckets, or does so for longer: no other may."""
        now = self.scheduler.now
        if now >= kernel.lease_end or not kernel.serves:
            return
        for other in self.kernels:
            if (
                other is not kernel
                and other.serves
                and now < other.lease_end
                and not buckets.isdisjoint(other.in_force)
            ):
                self._twice(kernel, other, buckets & other.in_force)
        for bucket in self._given_up.keys() & buckets:
            gap_s = now - self._given_up.pop(bucket)
            if kernel is not self.straggler:
                self._gap(bucket, gap_s)

    def ceases(self, kernel: Kernel, buckets: frozenset[int]) -> None:
        """A daemon gives buckets up: the time until another has them is a gap for new flows."""
        if kernel.serves and self.scheduler.now < kernel.lease_end:
            self._given_up.update(dict.fromkeys(buckets, self.scheduler.now))

    def _gap(self, bucket: int, gap_s: float) -> None:
        self.gaps.append(gap_s)
        if gap_s > self.gap_bound_s:
            raise ViolationError(f"nobody had bucket {bucket} for {gap_s:.3f} s")

    def _twice(self, kernel: Kernel, other: Kernel, buckets: frozenset[int]) -> None:
        if kernel.holds or other.holds:
            self.held += 1
            return
        if self._is_excused(kernel, other) or self._is_excused(other, kernel):
            self.excused += 1
            return
        left_s = other.lease_end - self.scheduler.now
        raise ViolationError(
            f"{self.nodes[kernel]} accepts in {sorted(buckets)} "
            f"while {self.nodes[other]} does for {left_s:.3f} s"
        )

    def _is_excused(self, newer: Kernel, older: Kernel) -> bool:
        """Whether somebody deleted a lease of the older one too early.

        That is before the newer one, or a daemon that took its id, looked for the first time.
        """
        number = older.number
        if number not in self.hand_deleted:
            return False
        missing = PATHS.lease(number) not in self.ensemble.tree.nodes
        heirs = [
            node
            for kernel, node in self.nodes.items()
            if kernel is not older and (kernel.number == number or (missing and kernel is newer))
        ]
        return any(number not in heir.known for heir in heirs)

    def _open_connection(self) -> None:
        """A client opens a TCP connection to the node that accepts it."""
        now, bucket = self.scheduler.now, self.random.randint(1, self.site.buckets)
        for kernel in self.kernels:
            if kernel.accepts(bucket, now):
                self._opened += 1
                kernel.connections[self._opened] = Connection(self._opened, bucket)
                self.scheduler.after(
                    self.random.expovariate(1.0), partial(kernel.end_connection, self._opened)
                )
        self.scheduler.after(0.05, self._open_connection)

    def run(self, until: float) -> None:
        """Let time pass, with an eye on the connections."""
        self.scheduler.run(until)
        for kernel in self.kernels:
            if kernel.lost_planned:
                raise ViolationError(f"{self.nodes[kernel]} cut off {kernel.lost_planned}")

    def pass_s(self, seconds: float) -> None:
        """Let so much time pass."""
        self.run(self.scheduler.now + seconds)

    def settle(self) -> None:
        """In a quiet time the cluster comes to rest.

        Each bucket has one acceptor, the one that everybody's view names.
        """
        deadline, steady = self.scheduler.now + QUIET_S, 0
        while steady < STEADY:
            self.pass_s(STEP_S)
            wrong = self.wrong()
            steady = 0 if wrong else steady + 1
            if wrong and self.scheduler.now >= deadline:
                raise ViolationError(f"does not come to rest: {wrong}")
        self._given_up.clear()  # nobody is to have these

    def wrong(self) -> str:
        """What is not as it should be at rest."""
        living = self.living
        wanted = {node.number: (node.state, node.flags.weight) for node in living}
        problems = (self._wrong_view(node, wanted) or self._wrong_kernel(node) for node in living)
        return next((problem for problem in problems if problem), "")

    @staticmethod
    def _wrong_view(node: Node, wanted: dict[int, tuple[str, int]]) -> str:
        view = None if node.participant is None else node.participant.handover.view
        if view is None:
            return f"{node} is no member"
        seen = {member.id: (member.state, member.weight) for member in view.members}
        return "" if seen == wanted else f"{node} sees {seen}"

    def _wrong_kernel(self, node: Node) -> str:
        assert node.participant is not None
        handover, kernel = node.participant.handover, node.kernel
        assert handover.view is not None
        if kernel.in_force != node.share(handover.view):
            return f"{node} has {sorted(kernel.in_force)} in force, stage {handover.stage.name}"
        if not handover.is_settled and not self.ack_deleted:
            return f"{node} lacks {handover.lacking(Phase.RELEASED)}, stage {handover.stage.name}"
        if kernel.lease_end - self.scheduler.now < 0.1 * LEASE_MS / 1000:
            return f"{node} has no lease"
        return ""
