"""Virtual time, and processes whose coroutines it drives.

The same seed always gives the same schedule.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from random import Random
from typing import Any, Generic, TypeVar

_Value = TypeVar("_Value")
TRACE_EVENTS = 100_000  # the last ones that are shown


class Scheduler:
    """What happens when. Times are seconds of true time, which no node's clock tells exactly."""

    def __init__(self, seed: int, *, trace: bool = False) -> None:
        self.now = 0.0
        self.random = Random(seed)
        self.traced: deque[str] = deque(maxlen=TRACE_EVENTS)
        self._trace = trace
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Do something at a time, not before now."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, action))

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Do something after a while."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, action))

    def run(self, until: float) -> None:
        """Let time pass."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            when, _count, action = pop(heap)
            self.now = max(self.now, when)
            action()
        self.now = until

    def chance(self, probability: float) -> bool:
        """Whether something of that probability happens."""
        return self.random.random() < probability

    def trace(self, who: object, what: str, *details: object) -> None:
        """Note what happened, for who looks for the reason of a failure."""
        if self._trace:
            self.traced.append(f"{self.now:10.6f} {who}: {what} {' '.join(map(str, details))}")


class Answer(Generic[_Value]):
    """What a strand waits for: settled once, by the first that comes."""

    __slots__ = ("_error", "_strand", "_value", "settled")

    def __init__(self) -> None:
        self.settled = False
        self._value: _Value | None = None
        self._error: Exception | None = None
        self._strand: Strand | None = None

    def settle(self, value: _Value) -> None:
        """Let the strand go on with a value."""
        if not self.settled:
            self.settled, self._value = True, value
            if self._strand is not None:
                self._strand.process.deliver(self._strand.go_on)

    def fail(self, error: Exception) -> None:
        """Let the strand go on with an exception."""
        if not self.settled:
            self.settled, self._error = True, error
            if self._strand is not None:
                self._strand.process.deliver(self._strand.go_on)

    def return_from(self, call: Callable[[], _Value], expected: type[Exception]) -> None:
        """Let the strand go on with what a call returns or raises.

        That happens before its process does anything else: the loop does not turn.
        """
        self.settled = True
        try:
            self._value = call()
        except expected as error:
            self._error = error
        if self._strand is not None:
            self._strand.go_on()

    def __await__(self) -> Generator[Answer[Any], None, _Value]:
        if not self.settled:
            yield self
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def awaited_by(self, strand: Strand) -> None:
        """The strand to let go on."""
        self._strand = strand


class Strand:
    """One coroutine of a process."""

    __slots__ = ("_coroutine", "ended", "process")

    def __init__(self, process: Process, coroutine: Coroutine[Any, None, None]) -> None:
        self.process = process
        self.ended = False
        self._coroutine = coroutine

    def go_on(self) -> None:
        """Run to the next wait."""
        if self.ended:
            return
        self.process.running = True
        try:
            answer = self._coroutine.send(None)
        except StopIteration:
            self.ended = True
            return
        finally:
            self.process.running = False
        answer.awaited_by(self)
        if answer.settled:
            self.process.deliver(self.go_on)

    def cancel(self) -> None:
        """End it where it waits."""
        if not self.ended:
            self.ended = True
            self._coroutine.close()


class Process:
    """One daemon's process.

    It does one thing at a time, may stop at any instruction, and has a clock of its own.
    """

    def __init__(self, scheduler: Scheduler, name: str, rate: float, offset_s: float) -> None:
        self.name = name
        self.alive = True
        self.stopped_until = 0.0  # the whole process, its connection included
        self.running = False
        self.skips = 0.0  # how likely it is to be stopped between two instructions
        self._scheduler = scheduler
        self._rate = rate
        self._offset_s = offset_s
        self._free_at = 0.0
        self._strands: list[Strand] = []
        self._backlog: deque[Callable[[], object]] = deque()

    def __repr__(self) -> str:
        return self.name

    def clock(self) -> float:
        """CLOCK_MONOTONIC; the process may be stopped right behind reading it."""
        scheduler = self._scheduler
        at = max(scheduler.now, self._free_at)
        if self.skips and scheduler.random.random() < self.skips:
            self.stop(scheduler.random.expovariate(3.0))
        return at * self._rate + self._offset_s

    @property
    def free_at(self) -> float:
        """From when on the process runs: what it does now has its effect then."""
        return max(self._scheduler.now, self._free_at)

    def span(self, seconds: float) -> float:
        """How long a time of the node's clock is."""
        return seconds / self._rate

    def stop(self, duration_s: float) -> None:
        """Stand still, as by SIGSTOP."""
        self._free_at = self.free_at + duration_s
        self.stopped_until = max(self.stopped_until, self._free_at)
        self._scheduler.trace(self, "stopped until", f"{self._free_at:.6f}")

    def hang(self, duration_s: float) -> None:
        """Have the loop stand still; the thread that keeps the session alive goes on."""
        self._free_at = self.free_at + duration_s
        self._scheduler.trace(self, "hangs until", f"{self._free_at:.6f}")

    def start(self, coroutine: Coroutine[Any, None, None]) -> Strand:
        """Run one more strand."""
        strand = Strand(self, coroutine)
        self._strands = [other for other in self._strands if not other.ended]
        self._strands.append(strand)
        self._scheduler.at(self.free_at, partial(self.deliver, strand.go_on))
        return strand

    def deliver(self, action: Callable[[], object]) -> None:
        """Do something in this process as soon as it runs, after all that waits already."""
        if not self.alive:
            return
        if not self.running and not self._backlog and self._free_at <= self._scheduler.now:
            action()
            return
        self._backlog.append(action)
        if len(self._backlog) == 1:
            self._scheduler.at(self.free_at, self._catch_up)

    def _catch_up(self) -> None:
        while self._backlog and self.alive:
            if self._free_at > self._scheduler.now:
                self._scheduler.at(self._free_at, self._catch_up)
                return
            self._backlog[0]()
            self._backlog.popleft()

    def resume_first(self, action: Callable[[], object]) -> None:
        """Do something as soon as the process runs again, before all that waits already."""
        self._scheduler.at(self._free_at, partial(self._resume, action))
        self._free_at += 1e-9

    def _resume(self, action: Callable[[], object]) -> None:
        if self.alive:
            action()

    async def sleep(self, seconds: float) -> None:
        """Wait that long by the node's clock."""
        answer: Answer[None] = Answer()
        self._scheduler.after(self.span(seconds), partial(answer.settle, None))
        await answer

    def end(self) -> None:
        """Be no more."""
        self.alive = False
        for strand in self._strands:
            strand.cancel()
        self._strands = []
