"""The lease is the kernel's.

It ends by itself and in time, and no pause of the process lengthens it. Seen by packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import signal
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Address
from typing import NamedTuple, Self

import pytest

from maglev0.core.packet_hash import PacketFields
from maglev0.core.service import HashMode, Service
from maglev0.core.transition import Move
from maglev0.dataplane.clusterip import guard
from maglev0.dataplane.clusterip.dataplane import ClusterIP
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.gate import Commit
from tests.support.patience import PATIENCE_S
from tests.vm.guest.moves import own, renew
from tests.vm.guest.wire import CLUSTER_MAC, UDP, VIP, Wire

TOTAL_NODES = 5
EVERYTHING = frozenset(range(1, TOTAL_NODES + 1))
FLOW = PacketFields(IPv4Address("192.0.2.77"), UDP, 1234, 4321)
LEASE_S = 2  # long enough for whatever an emulated machine with busy processors does meanwhile
TICK_S = 0.02  # the margin that every node of a cluster grants the clocks of the others
OVER_S = LEASE_S + TICK_S
STOPS = 8

Step = Callable[[ClusterIP], Awaitable[None]]
pytestmark = pytest.mark.usefixtures("wire")


@pytest.fixture
def service() -> Service:
    return Service(VIP, "eth0", CLUSTER_MAC, TOTAL_NODES, HashMode.SOURCE_IP, 0)


@pytest.fixture
def dataplane(service: Service) -> ClusterIP:
    """With all buckets in force, so that the lease alone decides."""
    made = ClusterIP(service, 1000 * LEASE_S)

    async def serve() -> None:
        await made.open()
        await own(made, EVERYTHING)

    asyncio.run(serve())
    return made


ATTEMPTS = 5


class Look(NamedTuple):
    """One packet, judged by the kernel at some instant between the two."""

    after: float
    before: float
    accepted: bool


def look(wire: Wire) -> Look:
    after = time.monotonic()
    accepted = bool(wire.accepted([FLOW]))
    return Look(after, time.monotonic(), accepted)


def looks(wire: Wire, duration_s: float) -> Iterator[Look]:
    until = time.monotonic() + duration_s
    while time.monotonic() < until:
        yield look(wire)


def until_accepted(wire: Wire) -> Iterator[Look]:
    """Packets up to the first that is accepted, for a while at most."""
    for packet in looks(wire, PATIENCE_S):
        yield packet
        if packet.accepted:
            return


class StoodStillError(Exception):
    """The machine stood still for so long that the lease expired before the first packet."""


def repeated(test: Callable[..., None]) -> Callable[..., None]:
    """Run the test again where the machine stood still, which happens on busy processors."""

    @functools.wraps(test)
    def tried(**fixtures: object) -> None:
        for _attempt in range(ATTEMPTS):
            with contextlib.suppress(StoodStillError):
                return test(**fixtures)
        raise AssertionError(f"the machine stood still in {ATTEMPTS} attempts")

    return tried


def ends_at(wire: Wire, armed: tuple[float, float], lease_s: float = LEASE_S) -> str:
    """See that the lease of a timer started within `armed` ends when it should, and that nothing
    comes after; in words.
    """
    if time.monotonic() > armed[0] + lease_s - TICK_S:
        raise StoodStillError
    seen = list(looks(wire, armed[1] + lease_s + 1 - time.monotonic()))
    accepted = [packet for packet in seen if packet.accepted]
    refused = [packet for packet in seen if not packet.accepted]
    assert accepted, "nothing was accepted at all"
    assert accepted[-1].after < armed[1] + lease_s + TICK_S, "the lease was too long"
    assert refused[0].before > armed[0] + lease_s - TICK_S, "the lease was too short"
    assert accepted[-1].before <= refused[0].after, "it came back"
    return (
        f"accepted until {accepted[-1].after - armed[0]:.4f} s, refused from "
        f"{refused[0].before - armed[1]:.4f} s after the start of the timer"
    )


def at_once(step: Awaitable[None]) -> tuple[float, float]:
    """Carry it out, and say between which instants."""

    async def awaited() -> None:
        await step

    before = time.monotonic()
    asyncio.run(awaited())
    return before, time.monotonic()


def test_without_a_lease_nothing_is_accepted_whatever_is_in_force(
    dataplane: ClusterIP, wire: Wire
) -> None:
    assert asyncio.run(dataplane.owned()) == EVERYTHING
    assert not look(wire).accepted
    at_once(dataplane.arm())
    assert not look(wire).accepted
    at_once(dataplane.promote())
    assert look(wire).accepted


def test_a_lease_that_is_renewed_has_no_gap(dataplane: ClusterIP, wire: Wire) -> None:
    at_once(renew(dataplane))
    for _ in range(8):
        assert all(packet.accepted for packet in looks(wire, LEASE_S / 10))
        at_once(dataplane.arm())
        assert look(wire).accepted
        at_once(dataplane.promote())
        assert look(wire).accepted


@repeated
def test_a_timer_that_was_not_promoted_extends_nothing(dataplane: ClusterIP, wire: Wire) -> None:
    for _ in range(2):  # in each of the slots
        first = at_once(dataplane.arm())
        at_once(dataplane.promote())
        for _again in range(2):
            time.sleep(0.3 * LEASE_S)
            at_once(dataplane.arm())
        print(ends_at(wire, first))  # noqa: T201  shown by pytest -rP


@repeated
def test_a_late_promotion_gives_the_rest_only(dataplane: ClusterIP, wire: Wire) -> None:
    for _ in range(2):
        armed = at_once(dataplane.arm())
        time.sleep(0.6 * LEASE_S)
        at_once(dataplane.promote())
        print(ends_at(wire, armed))  # noqa: T201


def test_a_promotion_after_the_timer_ran_out_gives_nothing(
    dataplane: ClusterIP, wire: Wire
) -> None:
    at_once(renew(dataplane))
    time.sleep(0.8 * LEASE_S)
    at_once(dataplane.arm())
    time.sleep(OVER_S)
    at_once(dataplane.promote())
    assert not look(wire).accepted
    at_once(renew(dataplane))
    assert look(wire).accepted


def test_dropped_it_ends_at_once_and_what_was_armed_is_worth_nothing(
    dataplane: ClusterIP, wire: Wire
) -> None:
    at_once(renew(dataplane))
    at_once(dataplane.arm())
    assert look(wire).accepted
    for _ in range(2):
        at_once(dataplane.drop())
        assert not look(wire).accepted
    with pytest.raises(DataplaneError, match="no armed timer, the lease was dropped meanwhile"):
        at_once(dataplane.promote())
    for slot in guard.SLOTS:
        guard.promote(VIP, slot)
        assert not look(wire).accepted
    at_once(renew(dataplane))
    assert look(wire).accepted


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_promotion_cut_short_counts_and_the_next_timer_replaces_the_earlier(
    dataplane: ClusterIP, wire: Wire, rounds: int
) -> None:
    for _ in range(rounds):
        at_once(renew(dataplane))
        time.sleep(0.3 * LEASE_S)
    newer = at_once(dataplane.arm())
    for slot in guard.SLOTS:
        guard._write(guard.mark(VIP, slot), f"+{VIP}")
    assert look(wire).accepted
    time.sleep(0.3 * LEASE_S)
    at_once(dataplane.arm())
    print(ends_at(wire, newer))  # noqa: T201


@pytest.mark.parametrize("fate", [signal.SIGSTOP, signal.SIGKILL])
def test_the_kernel_alone_ends_the_lease_of_a_process_that_is(
    service: Service, wire: Wire, fate: signal.Signals
) -> None:
    lease_s = 3
    with Child(service, lease_s, once_then(fate)) as child:
        child.wait_for_its_end()
        print(ends_at(wire, child.armed()[-1], lease_s))  # noqa: T201


def test_a_killed_daemons_lease_is_adopted_with_its_rest_and_its_slot(
    service: Service, wire: Wire
) -> None:
    lease_s = 5
    with Child(service, lease_s, once_then(signal.SIGKILL)) as child:
        child.wait_for_its_end()
        second = ClusterIP(service, 1000 * lease_s)
        at_once(second.open())
        assert asyncio.run(second.owned()) == EVERYTHING
        assert look(wire).accepted
        at_once(second.arm())
        print(ends_at(wire, child.armed()[-1], lease_s))  # noqa: T201


def test_stopped_at_any_instant_a_daemon_that_renews_is_never_accepted_for_longer(
    service: Service, wire: Wire
) -> None:
    chance = random.Random(seed := random.randrange(1 << 32))
    seen: list[Look] = []
    with Child(service, LEASE_S, renew_for_ever) as child:
        for _ in range(STOPS):
            seen += looks(wire, chance.uniform(0.2, 0.6))
            child.send(signal.SIGSTOP)
            seen += looks(wire, LEASE_S + 0.2)
            seen.append(look(wire))  # the one before may have been on its way for long
            assert not seen[-1].accepted, f"seed {seed}"
            child.send(signal.SIGCONT)
        seen += until_accepted(wire)
        armed = child.armed()
    assert seen[-1].accepted, f"seed {seed}"
    for packet in seen:
        if packet.accepted:
            latest = max(end for start, end in armed if start <= packet.before)
            assert packet.after < latest + OVER_S, f"seed {seed}"


def once_then(fate: signal.Signals) -> Callable[[ClusterIP, Note], Awaitable[None]]:
    """Give one lease, and arm another that is never promoted."""

    async def live(dataplane: ClusterIP, note: Note) -> None:
        before = time.monotonic()
        await dataplane.arm()
        note(before, time.monotonic())
        await dataplane.promote()
        await dataplane.arm()
        os.kill(os.getpid(), fate)

    return live


async def renew_for_ever(dataplane: ClusterIP, note: Note) -> None:
    while True:
        before = time.monotonic()
        await dataplane.arm()
        note(before, time.monotonic())
        await dataplane.promote()


Note = Callable[[float, float], None]
RECORD = struct.Struct("dd")


class Child:
    """A process that serves all buckets in this thread's namespace and lives as it is told.

    Between which instants it armed comes by a pipe.
    """

    def __init__(
        self, service: Service, lease_s: int, life: Callable[[ClusterIP, Note], Awaitable[None]]
    ) -> None:
        self._service, self._lease_s, self._life = service, lease_s, life
        self._armed: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._reads, False)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                asyncio.run(self._live())
            finally:
                os._exit(1)
        os.close(self._writes)
        return self

    async def _live(self) -> None:
        dataplane = ClusterIP(self._service, 1000 * self._lease_s)
        await dataplane.open()
        await dataplane.stage(Move(EVERYTHING, frozenset()))
        await dataplane.commit(Commit.ACQUIRE)
        await self._life(dataplane, self._note)

    def _note(self, before: float, after: float) -> None:
        os.write(self._writes, RECORD.pack(before, after))

    def __exit__(self, *_: object) -> None:
        os.close(self._reads)
        try:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass

    def send(self, number: signal.Signals) -> None:
        os.kill(self._pid, number)
        if number is signal.SIGSTOP:
            os.waitpid(self._pid, os.WUNTRACED)

    def wait_for_its_end(self) -> None:
        """Until it is stopped or killed."""
        _, status = os.waitpid(self._pid, os.WUNTRACED)
        assert not os.WIFEXITED(status), "it failed before"

    def armed(self) -> list[tuple[float, float]]:
        """All that it noted so far."""
        while True:
            try:
                read = os.read(self._reads, 4096 * RECORD.size)
            except BlockingIOError:
                read = b""
            if not read:
                return self._armed
            self._armed += [
                RECORD.unpack_from(read, offset) for offset in range(0, len(read), RECORD.size)
            ]
