"""Members by the dozen in one process, for `tests.bench.scale`.

Each with the daemon's loop and protocol, and a kernel only in name.

What they share is what on machines of their own they would not wait for: a table is built once for
all of them, and none looks ahead. They say "ready" when they know the cluster's settings, and join
on SIGUSR2, all at once: one after the other would be as many hand-overs. SIGTERM has them leave by
hand-over, SIGUSR1 gives each one more weight, SIGKILL is their crash.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address
from typing import NamedTuple, cast

from maglev0.config.health_checks import DEFAULT_TIMING, parse_timing
from maglev0.coordination.session import Session
from maglev0.coordination.session_file import kernel_identity
from maglev0.core.assignment import decide
from maglev0.core.service import HashFamily
from maglev0.core.settings import Settings, Wishes
from maglev0.core.view import ACTIVE, Member, View, ViewId
from maglev0.daemon.node_driver import NodeDriver
from maglev0.daemon.reconciler import Reconciler
from maglev0.daemon.supervisor import SWITCH_INTERVAL_S
from maglev0.dataplane.dry_run import DryRun
from maglev0.health.runner import CheckRunner
from maglev0.protocol.agreement import Agreement, Founder, Unsettled
from maglev0.protocol.handover import Phase
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import Disconnected
from maglev0.protocol.progress import ClusterContext
from maglev0.runtime import logs
from maglev0.runtime.waiting import Backoff, first_of, in_thread, together
from maglev0.telemetry.notify import StateChange
from maglev0.telemetry.ports import Snapshot, VipSink
from maglev0.telemetry.reporter import Reporter
from tests.bench.scalesession import LeanSession

WISHES = Wishes(None, None, None, None, (HashFamily.NFTABLES,))
DRAIN_S = 10.0  # there are no connections to wait for, so that the hand-over alone is bounded


class Shares:
    """What each member owns under a view, worked out once in this process.

    The latest view alone is kept.
    """

    def __init__(self, total_nodes: int) -> None:
        self._total_nodes = total_nodes
        self._view: ViewId | None = None
        self._owned: asyncio.Future[dict[str, frozenset[int]]] | None = None

    async def of(self, name: str, view: View) -> frozenset[int]:
        """The share of one member."""
        if self._owned is None or view.id != self._view:
            self._view, self._owned = (
                view.id,
                asyncio.ensure_future(in_thread(partial(self._all, view))),
            )
        # Shielded, for one member that stops waiting must not take the table away from all others.
        return (await asyncio.shield(self._owned)).get(name, frozenset())

    def _all(self, view: View) -> dict[str, frozenset[int]]:
        numbers: dict[str, list[int]] = defaultdict(list)
        for slot, owner in enumerate(decide(view, self._total_nodes, dry_run=False).table):
            numbers[owner].append(slot + 1)
        return {owner: frozenset(owned) for owner, owned in numbers.items()}


class Settled(NamedTuple):
    """That all members here have their shares under a view, of so many active members with so much
    weight together; CLOCK_MONOTONIC.
    """

    members: int
    weight: int
    at_s: float


class Crowd:
    """The members of this process; tells on stdout when all have come to the end of a hand-over."""

    def __init__(self) -> None:
        self.members: list[Simulated] = []
        self._told: ViewId | None = None

    def gain_weight(self) -> None:
        """Each of them."""
        for member in self.members:
            member.gain_weight()

    def came_to_rest(self) -> None:
        """One member has its share of a view, as the last one here perhaps."""
        view = self.members[0].at_rest_under
        if (
            view is None
            or view.id == self._told
            or any(
                member.at_rest_under is None or member.at_rest_under.id != view.id
                for member in self.members
            )
        ):
            return
        self._told = view.id
        active = [member.weight for member in view.members if member.state == ACTIVE]
        say("settled", *Settled(len(active), sum(active), time.monotonic()))


class Simulated(NodeDriver):
    """The daemon's own loop, without failover plans: its shares come from elsewhere."""

    crowd: Crowd
    shares: Shares
    at_rest_under: View | None = None

    def gain_weight(self) -> None:
        """Change the member's record as a flag at its start would have it."""
        node_state = self._part.node_state
        node_state.wish(node_state.me.state, node_state.me.weight + 1)
        self._awake.set()

    def look(self) -> None:
        """See whether the member has come to rest under another view."""
        handover = self._part.handover
        at_rest_under = handover.view if handover.stage is Phase.ACQUIRED else None
        if at_rest_under is not self.at_rest_under:
            self.at_rest_under = at_rest_under
            self.crowd.came_to_rest()

    async def _share(self, view: View) -> frozenset[int]:
        return await self.shares.of(self.progress.me.name, view)


class Nobody:
    """An `Outlet` of which nobody wants to know."""

    listens = False

    def changed(self, event: StateChange) -> None:
        """Not told."""

    def seen(self, vip: IPv4Address, snapshot: Snapshot) -> None:
        """Not told."""

    def took(self, vip: IPv4Address, stage: Phase, seconds: float) -> None:
        """Not told."""

    def failed(self, kind: str) -> None:
        """Not told."""

    def left(self, vip: IPv4Address) -> None:
        """Not told."""


class Orders:
    """What signals have asked for."""

    def __init__(self, crowd: Crowd) -> None:
        self.join, self.leave = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR2, self.join.set)
        loop.add_signal_handler(signal.SIGTERM, self.leave.set)
        loop.add_signal_handler(signal.SIGUSR1, crowd.gain_weight)


class Way:
    """One member's way into the cluster, through it and out."""

    def __init__(self, zk: str, vip: IPv4Address, session_timeout_s: float, number: int) -> None:
        self._vip = vip
        self._number = number
        host, _, port = zk.partition(":")
        self._session = LeanSession(host, int(port), session_timeout_s, self._notice)
        self._paths = Paths(f"/maglev0/{vip}")
        self._agreement = Agreement(self._session, self._paths)
        self._member: Simulated | None = None

    def _notice(self, path: str | None) -> None:
        if self._member is not None:
            self._member.notice(path)

    async def agree(self) -> Settings:
        """What the real daemon wrote before any of these started."""
        await self._session.connect()
        backoff = Backoff()
        while True:
            try:
                return await self._agreement.agree(
                    self._number, WISHES, Founder(self._vip, self._session.timeout_s, 0)
                )
            except (Disconnected, Unsettled):
                await asyncio.sleep(backoff.failed())

    async def go(
        self, settings: Settings, crowd: Crowd, shares: Shares, leave: asyncio.Event
    ) -> None:
        """Be a member until told to leave."""
        cluster = ClusterContext(self._paths, settings, kernel_identity(), hold=False)
        upkeep = Reconciler(DryRun(HashFamily.NFTABLES), lambda: None)
        session = cast("Session", self._session)
        member = self._member = Simulated(
            session, upkeep, self._agreement, cluster, record(self._number, self._session.timeout_s)
        )
        member.crowd, member.shares = crowd, shares
        crowd.members.append(member)
        checks = CheckRunner(self._vip, (), parse_timing(DEFAULT_TIMING), member.on_progress)
        reporter = Reporter(
            session,
            upkeep,
            member,
            cluster=cluster,
            sink=VipSink(self._vip, Nobody()),
            checks=checks,
        )

        def progressed() -> None:
            member.look()
            reporter.look()

        member.on_progress = progressed
        following = asyncio.create_task(together(member.follow(), reporter.run()))
        await first_of(following, leave.wait())
        await first_of(following, member.drain(DRAIN_S))
        following.cancel()
        await asyncio.wait([following])
        await reporter.withdraw()
        await member.leave()
        await self._session.close()
        if not following.cancelled():
            following.result()


def record(number: int, session_timeout_s: float) -> Member:
    """A record of the length that a real one has."""
    address, mac = f"198.18.0.{number}", f"02:4d:47:00:00:{number:02x}"
    return Member(
        number,
        "simulated-host",
        os.getpid(),
        time.time(),
        address,
        mac,
        HashFamily.NFTABLES,
        1,
        ACTIVE,
        session_timeout_s,
    )


def say(what: str, *values: float) -> None:
    """One fact for the bench to read."""
    sys.stdout.write(
        " ".join(
            [
                what,
                *(f"{value:.6f}" if isinstance(value, float) else str(value) for value in values),
            ]
        )
        + "\n"
    )
    sys.stdout.flush()


async def take_part(ways: Callable[[], list[Way]]) -> None:
    """All members, until SIGTERM."""
    crowd = Crowd()
    orders, members = Orders(crowd), ways()
    settings = await asyncio.gather(*(way.agree() for way in members))
    shares = Shares(settings[0].total_nodes)
    say("ready")
    await orders.join.wait()
    async with asyncio.TaskGroup() as group:
        for way, agreed in zip(members, settings, strict=True):
            group.create_task(way.go(agreed, crowd, shares, orders.leave))


def main() -> None:
    """Take part with the ids from --first to --last."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    logs.begin(verbose=False)
    parser = argparse.ArgumentParser()
    for flag, kind in {
        "--zk": str,
        "--vip": IPv4Address,
        "--session-timeout": float,
        "--first": int,
        "--last": int,
    }.items():
        parser.add_argument(flag, type=kind, required=True)
    flags = parser.parse_args()
    numbers = range(flags.first, flags.last + 1)
    asyncio.run(
        take_part(
            lambda: [Way(flags.zk, flags.vip, flags.session_timeout, number) for number in numbers]
        )
    )  # made on the loop


if __name__ == "__main__":
    main()
