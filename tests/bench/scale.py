"""What a cluster of many members asks of one real ZooKeeper, and of one of its daemons.

`python -m tests.bench.scale`, as root; three minutes.

One member is a real daemon on nftables in the lab, the others are `tests.bench.scalemembers`: the
real protocol over sessions that cost less than kazoo's, in a few processes. All of them, and
ZooKeeper, share this machine's processors, so that times say little of what as many machines would
take; counts say all.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from maglev0.lab.testbed import addresses, claim, network
from maglev0.lab.testbed.claim import Claim
from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.testbed.network import MANAGEMENT, Socket
from maglev0.lab.testbed.node import INTERFACE
from maglev0.lab.testbed.process import Process, python_module, wait_for
from tests.bench.daemon import memory_mb
from tests.bench.scalemembers import Settled
from tests.bench.scalemeter import Reading, read
from tests.bench.sheet import Cell, Sheet, publish

MEMBERS = (10, 30, 100)
TOTAL_NODES = 65_537
SESSION_TIMEOUT_S = 4.0
TICK_MS = 500
CROWDS = 4
CROWD_ADDRESS = 200  # of the management network; the lab's own nodes count from 1
SETTLE_TIMEOUT_S = 60.0
TAIL_S = 0.5  # in which what was asked for by the last member, and what it tells, comes through
REST_S = 5.0
LOOK_S = 2.0
LAPSED = "acquiring all buckets again"  # in a member's log
LOOK_AHEAD_CPU = (
    0.02  # a daemon that looks ahead takes a tenth of a core for it, one at rest under a hundredth
)
LOOK_AHEAD_TIMEOUT_S = 90.0

REST = (
    "members",
    "requests/s",
    "answers and events/s",
    "writes/s",
    "KB/s to ZooKeeper",
    "KB/s from it",
    "ZooKeeper CPU %",
    "ZooKeeper MB",
    "daemon CPU %",
    "daemon MB",
    "daemon peak MB",
    "looked ahead s",
)
CHANGE = (
    "change",
    "members",
    "requests",
    "answers and events",
    "writes",
    "KB to ZooKeeper",
    "KB from it",
    "ZooKeeper CPU s",
    "daemon CPU s",
    "others' CPU s",
    "seconds to the last share",
    "leases lapsed",
)
GROWTH = (
    "change",
    "requests",
    "answers and events",
    "writes",
    "KB to ZooKeeper",
    "KB from it",
    "ZooKeeper CPU s",
)
MEMBERS_NOTE = (
    "One member is a real daemon on nftables, the others are the real protocol on a dataplane "
    "that only remembers, with sessions that ask what "
    f"the daemon's would, in {CROWDS + 1} processes; {TOTAL_NODES:,} buckets, "
    f"session timeout {SESSION_TIMEOUT_S:g} s; one ZooKeeper server, "
    f"tick {TICK_MS} ms, heap 128 MB. "
)
REST_NOTE = (
    f"{MEMBERS_NOTE}Over {REST_S:g} s in which nobody joins, leaves or asks, "
    "after the daemon has looked ahead, which took the last column."
)
CHANGE_NOTE = (
    f"{MEMBERS_NOTE}What a change takes beyond what the same time takes at rest. "
    "All members share this machine's processors with "
    "ZooKeeper: counts and bytes are those of as many machines, times are not. "
    "A leave is two views, one to drain and one to go; a crash waits "
    "for the session to end. Writes below zero, and leases that lapsed and began again: "
    "renewals came late."
)
GROWTH_NOTE = (
    "The power of the number of members with which a figure grows, "
    f"from {MEMBERS[0]} to {MEMBERS[-1]} members: 1 is in proportion."
)


class Scale:
    """A cluster of so many members, the last of which comes and goes.

    A context manager within that of the lab.
    """

    def __init__(self, lab: Lab, mine: Claim, members: int) -> None:
        self._lab = lab
        self._mine = mine
        self._members = members
        self._crowds: dict[str, Process] = {}
        self._staying: list[Process] = []
        self._namespace = mine.namespace("crowd")

    def start(self) -> None:
        """Everybody but the last."""
        network.make_namespace(self._namespace)
        self._lab.network.plug(
            "crowd",
            MANAGEMENT,
            Socket(self._namespace, INTERFACE, addresses.managed_address(CROWD_ADDRESS)),
        )
        self._lab.start()
        others = range(2, self._members)
        step = math.ceil(len(others) / CROWDS)
        self._staying = [
            self._begin(first, min(first + step, self._members) - 1) for first in others[::step]
        ]
        self._join(self._staying)
        self._settle(self._members - 1)

    def _begin(self, first: int, last: int) -> Process:
        place = [
            f"--zk={self._lab.zookeeper.connect_string}",
            f"--vip={self._lab.settings.vip}",
            f"--session-timeout={SESSION_TIMEOUT_S}",
        ]
        command = python_module(
            "tests.bench.scalemembers", *place, f"--first={first}", f"--last={last}"
        )
        name = f"members {first} to {last}"
        self._crowds[name] = Process(
            name, command, self._mine.directory / f"members-{first}.log", self._namespace
        )
        return self._crowds[name]

    def _join(self, crowds: list[Process]) -> float:
        """Have them all join once all know the cluster's settings; returns when that was."""
        for crowd in crowds:
            crowd.wait_line("^ready$", SETTLE_TIMEOUT_S)
        start_s = time.monotonic()
        for crowd in crowds:
            crowd.signal(signal.SIGUSR2)
        return start_s

    def read(self) -> Reading:
        """All counters now."""
        return read(self._lab.zookeeper.servers[0], self._lab.nodes[1].daemon, self._staying)

    def memory_mb(self) -> tuple[float, float, float]:
        """Of ZooKeeper, and of the daemon now and at most."""
        daemon = self._lab.nodes[1].daemon.pid
        return (
            memory_mb(self._lab.zookeeper.servers[0].process.pid, "VmRSS"),
            memory_mb(daemon, "VmRSS"),
            memory_mb(daemon, "VmHWM"),
        )

    def rest(self) -> tuple[float, Reading]:
        """What happens while nothing happens; before it, how long the daemon looked ahead."""
        start_s = time.monotonic()
        while self._looks_ahead() and time.monotonic() < start_s + LOOK_AHEAD_TIMEOUT_S:
            pass
        looked_ahead_s = time.monotonic() - start_s
        return looked_ahead_s, self._over(REST_S)

    def _looks_ahead(self) -> bool:
        over = self._over(LOOK_S)
        return over.daemon_s > LOOK_AHEAD_CPU * over.at_s

    def _over(self, seconds: float) -> Reading:
        before = self.read()
        time.sleep(seconds)
        return self.read().since(before)

    def join(self) -> float:
        """Add the last member."""
        self._last = self._begin(self._members, self._members)
        start_s = self._join([self._last])
        self._settle(self._members)
        return start_s

    def gain_weight(self) -> float:
        """Give the last member more weight."""
        start_s = time.monotonic()
        self._last.signal(signal.SIGUSR1)
        self._settle(self._members, self._members + 1)
        return start_s

    def leave(self) -> float:
        """Have the last member leave in order."""
        return self._end(signal.SIGTERM)

    def crash(self) -> float:
        """Kill it."""
        return self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> float:
        start_s = time.monotonic()
        self._crowds.pop(self._last.name)
        self._last.signal(how)
        self._last.wait(SETTLE_TIMEOUT_S)
        self._settle(self._members - 1)
        return start_s

    def _settle(self, members: int, weight: int | None = None) -> None:
        """Wait until all have their shares under a view of so many members."""
        expected = members, weight or members
        crowds = list(self._crowds.values())

        def all_have() -> bool | None:
            return (
                all(
                    (found := settled(crowd)) is not None and found[:2] == expected
                    for crowd in crowds
                )
                or None
            )

        wait_for(all_have, crowds, SETTLE_TIMEOUT_S, f"{members} members to have their shares")

    def lapses(self) -> int:
        """How often a member that is here now has lost its lease to a change of the members."""
        return sum(
            process.output().count(LAPSED)
            for process in (self._lab.nodes[1].daemon, *self._crowds.values())
        )

    @property
    def last_share_s(self) -> float:
        """When the last member had its share."""
        return max(
            found.at_s for crowd in self._crowds.values() if (found := settled(crowd)) is not None
        )


def settled(crowd: Process) -> Settled | None:
    """What a process of members said last."""
    lines = [line.split() for line in crowd.output().splitlines() if line.startswith("settled ")]
    return Settled(int(lines[-1][1]), int(lines[-1][2]), float(lines[-1][3])) if lines else None


class Change(NamedTuple):
    """One change of the members.

    All that happened until it was through, and how long the last member waited for its share.

    `lapses` says how many lost their lease over it, and took everything anew: for want of processor
    time, or because ZooKeeper was too slow.
    """

    name: str
    found: Reading
    last_share_s: float
    lapses: int


class Found(NamedTuple):
    """All that is to know of one size of cluster."""

    members: int
    rest: Reading
    looked_ahead_s: float
    memory_mb: tuple[float, float, float]
    changes: tuple[Change, ...]


def changed(scale: Scale, name: str, change: Callable[[], float]) -> Change:
    """Have one change happen to a cluster at rest.

    `change` returns when it began, in its own opinion.
    """
    lapses, before = scale.lapses(), scale.read()
    start_s = change()
    time.sleep(TAIL_S)
    return Change(
        name, scale.read().since(before), scale.last_share_s - start_s, scale.lapses() - lapses
    )


def measure(members: int) -> Found:
    """One cluster, from nothing to its figures."""
    settings = LabSettings(
        1, TOTAL_NODES, dataplane="nftables", session_timeout_s=SESSION_TIMEOUT_S, tick_ms=TICK_MS
    )
    mine = claim.claim()
    with Lab(settings, mine) as lab:
        scale = Scale(lab, mine, members)
        scale.start()
        scale.join()
        looked_ahead_s, rest = scale.rest()
        memory_mb = scale.memory_mb()
        steps = {
            "one gains weight": scale.gain_weight,
            "one leaves": scale.leave,
            "one joins": scale.join,
            "one crashes": scale.crash,
        }
        return Found(
            members,
            rest,
            looked_ahead_s,
            memory_mb,
            tuple(changed(scale, name, step) for name, step in steps.items()),
        )


def rest_row(found: Found) -> tuple[Cell, ...]:
    """One line of the first sheet."""
    rest, over_s = found.rest, found.rest.at_s
    counts = (
        rest.requests / over_s,
        rest.answers / over_s,
        rest.writes / over_s,
        rest.bytes_in / over_s / 1e3,
        rest.bytes_out / over_s / 1e3,
    )
    zookeeper_mb, daemon_mb, peak_mb = found.memory_mb
    cpu = (
        100 * rest.zookeeper_s / over_s,
        zookeeper_mb,
        100 * rest.daemon_s / over_s,
        daemon_mb,
        peak_mb,
    )
    return found.members, *counts, *cpu, found.looked_ahead_s


def costs(found: Found) -> dict[str, tuple[float, ...]]:
    """What each change took beyond rest, in the order of the second sheet's columns."""
    extra = {change.name: change.found.beyond(found.rest) for change in found.changes}
    return {
        name: (
            *map(round, one[1:4]),
            one.bytes_in / 1e3,
            one.bytes_out / 1e3,
            one.zookeeper_s,
            one.daemon_s,
            one.others_s,
        )
        for name, one in extra.items()
    }


def growth_row(change: str, least: Found, most: Found) -> tuple[Cell, ...]:
    """How one change's figures grow from the smallest cluster to the largest."""
    pairs = list(zip(costs(least)[change], costs(most)[change], strict=True))[: len(GROWTH) - 1]
    times = math.log(most.members / least.members)
    # What is not above rest in one of the two is lost in that one's noise.
    return change, *(
        math.log(after / before) / times if before > 0 < after else None for before, after in pairs
    )


def run() -> tuple[Sheet, ...]:
    """All sizes, one after the other."""
    found = tuple(measure(members) for members in MEMBERS)
    names = [change.name for change in found[0].changes]
    ends = {
        (one.members, change.name): (change.last_share_s, change.lapses)
        for one in found
        for change in one.changes
    }
    changes: tuple[tuple[Cell, ...], ...] = tuple(
        (name, one.members, *costs(one)[name], *ends[one.members, name])
        for name in names
        for one in found
    )
    growth = tuple(growth_row(name, found[0], found[-1]) for name in names)
    return (
        Sheet("scale-rest", "a cluster at rest", REST, tuple(map(rest_row, found)), REST_NOTE),
        Sheet("scale-change", "one change of the members", CHANGE, changes, CHANGE_NOTE),
        Sheet("scale-growth", "how a change's price grows", GROWTH, growth, GROWTH_NOTE),
    )


def main() -> None:
    """Measure, show and keep it."""
    publish(*run())


if __name__ == "__main__":
    main()
