"""A model of one host's kernel, and the ports through which a daemon asks it.

The kernel accepts at any instant what it accepts, whatever becomes of the daemon.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from maglev0.core.transition import Move
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.gate import Commit
from maglev0.protocol.ports.readings import Connections
from tests.simulation.scheduler import Answer, Process, Scheduler

TIMER_TICK_S = 0.01  # HZ=100: a timer may run out so much later
NOTHING: frozenset[int] = frozenset()


class ViolationError(AssertionError):
    """A promise was broken."""


class Connection(NamedTuple):
    """A TCP connection that a client holds."""

    number: int
    bucket: int


class Watcher(Protocol):
    """What watches all kernels."""

    def begins(self, kernel: Kernel, buckets: frozenset[int]) -> None:
        """A kernel begins to accept in buckets, or does so for longer."""

    def ceases(self, kernel: Kernel, buckets: frozenset[int]) -> None:
        """A daemon has its kernel accept in buckets no more."""


class Kernel:
    """Buckets in force, the lease's two slots, admitted buckets, and connections of one host."""

    def __init__(
        self, name: str, number: int, rate: float, offset_s: float, watcher: Watcher
    ) -> None:
        self.name = name
        self.number = number  # the id of its daemon
        self.rate = rate
        self.offset_s = offset_s
        self.in_force = NOTHING
        self.admitted = NOTHING
        self.ends = [-math.inf, -math.inf]
        self.active = 0
        self.connections: dict[int, Connection] = {}
        self.lost_planned: list[Connection] = []
        self.serves = True  # a dry run asks nothing of the kernel
        self.holds = False  # its daemon was told to hold
        self._watcher = watcher

    def __repr__(self) -> str:
        return self.name

    @property
    def lease_end(self) -> float:
        """Until when new flows are accepted, in true time."""
        return self.ends[self.active]

    def accepts(self, bucket: int, now: float) -> bool:
        """Whether a new flow is accepted."""
        return self.serves and bucket in self.in_force and now < self.ends[self.active]

    def point(self, in_force: frozenset[int]) -> None:
        """Put other buckets in force."""
        gains, losses = in_force - self.in_force, self.in_force - in_force
        self.in_force = in_force
        self.admitted |= gains
        if losses:
            self._watcher.ceases(self, losses)
        if gains:
            self._watcher.begins(self, gains)

    def promote(self, slot: int) -> None:
        """Judge by the other slot."""
        self.active = slot
        self._watcher.begins(self, self.in_force)

    def admit(self, admitted: frozenset[int]) -> None:
        """Let the early stage pass only these; a connection that this cuts off is lost."""
        gone = self.admitted - admitted
        self.admitted = admitted
        self.lost_planned += [one for one in self.connections.values() if one.bucket in gone]

    def end_connection(self, number: int) -> None:
        """A connection ends by itself."""
        self.connections.pop(number, None)

    def clear(self) -> None:
        """Remove everything of ours, or lose the host."""
        self.in_force = self.admitted = NOTHING
        self.end_lease()
        self.connections.clear()

    def end_lease(self) -> None:
        """Accept nothing from here on, whatever timer was started."""
        self.ends = [-math.inf, -math.inf]


@dataclass
class Temper:
    """How the adversary treats the calls.

    `stops` is the probability of a stop on either side of the effect, `skips` of one between two
    other instructions, `fails` of a failure. `load_s` are the seconds that a load takes at most,
    unless it is slow.
    """

    stops: float = 0.0
    skips: float = 0.0
    fails: float = 0.0
    load_s: float = 0.01
    slow_loads: bool = True


class ProcessGate:
    """One process's view of its kernel, behind the ports `Gate`, `LeaseTimer` and `Readings`."""

    def __init__(
        self, kernel: Kernel, process: Process, scheduler: Scheduler, lease_s: float, temper: Temper
    ) -> None:
        self.kernel = kernel
        self._process = process
        self._scheduler = scheduler
        self._lease_s = lease_s
        self._temper = temper
        self._coming: Move | None = None
        self._let_in = NOTHING
        self._armed: int | None = None
        self.fails_until = -math.inf
        self.held_up_s = 0.0  # how much longer the next load takes

    async def _at_once(self, what: str, effect: Callable[[], None]) -> None:
        """A call in which the loop does not turn; the process may stop around its effect."""
        temper, process, random = self._temper, self._process, self._scheduler.random
        if temper.stops and random.random() < temper.stops:
            process.stop(random.expovariate(3.0))
        if process.free_at > self._scheduler.now:
            answer: Answer[None] = Answer()
            process.resume_first(
                partial(answer.return_from, partial(self._attempt, what, effect), DataplaneError)
            )
            await answer
        else:
            self._attempt(what, effect)
        if temper.stops and random.random() < temper.stops:
            process.stop(random.expovariate(3.0))

    async def _later(self, delay_s: float, effect: Callable[[], None]) -> None:
        answer: Answer[None] = Answer()
        self._scheduler.after(delay_s, partial(self._effect, answer, effect))
        await answer

    def _effect(self, answer: Answer[None], effect: Callable[[], None]) -> None:
        if not self._process.alive:
            return
        try:
            effect()
        except DataplaneError as error:
            answer.fail(error)
        else:
            answer.settle(None)

    def _attempt(self, what: str, effect: Callable[[], None]) -> None:
        fails = self._scheduler.now < self.fails_until or (
            bool(self._temper.fails) and self._scheduler.random.random() < self._temper.fails
        )
        if not fails or self._scheduler.random.random() < 0.5:
            self._scheduler.trace(self.kernel, what, sorted(self.kernel.in_force))
            effect()
        if fails:
            raise DataplaneError(f"{what}: failed")

    async def stage(self, move: Move) -> None:
        """See `dataplane.Gate`: it takes its time, in which the loop turns."""
        self._coming = None
        temper, random = self._temper, self._scheduler.random
        delay_s = self._process.free_at - self._scheduler.now + random.random() * temper.load_s
        if temper.slow_loads and random.random() < 0.05:
            delay_s += random.expovariate(3.0)
        delay_s, self.held_up_s = delay_s + self.held_up_s, 0.0
        what = f"load {sorted(move.gains)} {sorted(move.losses)}"
        if len(move.gains) > 1 and random.random() < 0.3:
            delay_s /= 2
            part = frozenset(sorted(move.gains)[::2])
            await self._later(
                delay_s, partial(self._attempt, f"begin to {what}", partial(self._let, part))
            )
        await self._later(delay_s, partial(self._attempt, what, partial(self._load, move)))

    def _let(self, part: frozenset[int]) -> None:
        self._let_in |= part - self.kernel.admitted
        self.kernel.admit(self.kernel.admitted | part)

    def _load(self, move: Move) -> None:
        kernel = self.kernel
        given_up = self._let_in - move.gains
        kernel.admit(kernel.admitted - given_up)
        self._let_in = (self._let_in - given_up) | (move.gains - kernel.admitted)
        kernel.admit(kernel.admitted | move.gains)
        self._coming = move

    async def commit(self, to: Commit) -> None:
        """See the port."""
        move = self._coming
        if move is None:
            raise DataplaneError("commit: no move is staged")
        await self._at_once(f"commit {to.value}", partial(self._commit, move, to))

    def _commit(self, move: Move, to: Commit) -> None:
        released = self.kernel.in_force - move.losses
        if to is Commit.ACQUIRE:
            self._let_in = NOTHING
            self.kernel.point(released | move.gains)
        else:
            self.kernel.point(released)

    async def arm(self) -> None:
        """See the port."""
        await self.arm_for(self._lease_s)

    async def arm_for(self, seconds: float) -> None:
        """Start a timer that runs so long by this host's clock.

        No dataplane offers that: it would invite the caller to arm what is left of a lease.
        """
        await self._at_once("arm", partial(self._arm, seconds))

    def _arm(self, seconds: float) -> None:
        slot = 1 - self.kernel.active
        late_s = TIMER_TICK_S * self._scheduler.random.random()
        self.kernel.ends[slot] = self._scheduler.now + seconds / self.kernel.rate + late_s
        self._armed = slot

    async def promote(self) -> None:
        """See the port."""
        await self._at_once("promote", self._promote)

    def _promote(self) -> None:
        if self._armed is None:
            raise DataplaneError("promote: no armed timer")
        slot, self._armed = self._armed, None
        self.kernel.promote(slot)

    async def drop(self) -> None:
        """See the port."""
        await self._at_once("drop", self._drop)

    def _drop(self) -> None:
        self._armed = None
        self.kernel.end_lease()

    async def owned(self) -> frozenset[int]:
        """See the port."""
        return self.kernel.in_force

    async def kept(self) -> frozenset[int]:
        """See `dataplane.Dataplane`."""
        return self.kernel.admitted - self.kernel.in_force

    async def connections(self) -> Connections:
        """See `dataplane.Gate`: a long table is read in steps, between which the loop turns."""
        buckets = frozenset(one.bucket for one in self.kernel.connections.values())
        await self._later(self._scheduler.random.expovariate(20.0), _nothing)
        return Connections(buckets, len(self.kernel.connections))

    async def unpin(self, buckets: frozenset[int]) -> None:
        """See the port."""
        await self._at_once(f"forget {sorted(buckets)}", partial(self._forget, buckets))

    def _forget(self, buckets: frozenset[int]) -> None:
        needed = self.kernel.in_force | (self._coming.gains if self._coming else NOTHING)
        self.kernel.admit(self.kernel.admitted - (buckets - needed))


def _nothing() -> None:
    """No effect."""
