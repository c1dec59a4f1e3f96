"""The lab: builds, watches, probes and removes its networks, ZooKeeper, nodes and client."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Self

from maglev0.lab.errors import LabError
from maglev0.lab.testbed import addresses, claim, network
from maglev0.lab.testbed.network import MANAGEMENT, TRAFFIC, Network, Socket
from maglev0.lab.testbed.node import INTERFACE, LabNode, Machine
from maglev0.lab.testbed.node_log import Picture
from maglev0.lab.testbed.process import Process, python_module, wait_for
from maglev0.lab.testbed.zookeeper import Ensemble, ServerLocation, Times
from maglev0.lab.traffic.probe import ProbePlan
from maglev0.lab.traffic.report import Report

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from maglev0.lab.testbed.claim import Claim

# A guard: on an idle machine a join takes 0.3 s, a crash the session timeout and some ticks.
SETTLE_TIMEOUT_S = 20.0
# A guard for the time that probing takes beyond its requests: start, last deadline, counting.
PROBE_MARGIN_S = 20.0


@dataclass(frozen=True)
class LabSettings:
    """The size of the lab and the flags of its daemons.

    Every daemon also gets `more_flags`. `tick_ms`, `init_limit` and `sync_limit` configure
    ZooKeeper, see `Times`.
    """

    nodes: int = 4
    total_nodes: int = 64
    vip: IPv4Address = addresses.VIP
    dataplane: str = "auto"
    session_timeout_s: float = 1.0
    tick_ms: int = 200
    init_limit: int = 25
    sync_limit: int = 5
    zookeepers: int = 1
    more_flags: tuple[str, ...] = ()


class Probing:
    """A running probe; `report` is available after `stop`."""

    def __init__(self, process: Process, plan: ProbePlan) -> None:
        self._process = process
        self._round_s = plan.clients / plan.rate_per_s
        self._report: Report | None = None

    @property
    def report(self) -> Report:
        """All requests and their answers; raises LabError while the probe runs."""
        if self._report is None:
            raise LabError("probing has not been stopped yet")
        return self._report

    def let_all_ask(self, rounds: int = 1) -> None:
        """Wait until each client has sent `rounds` more requests, as computed from the rate."""
        time.sleep(rounds * self._round_s)

    def stop(self) -> None:
        """Stop sending requests and read the report."""
        self._process.stop(PROBE_MARGIN_S)
        self.finish(PROBE_MARGIN_S)

    def finish(self, timeout_s: float) -> None:
        """Wait until a probe with a fixed number of requests ends, then read its report."""
        status = self._process.wait(timeout_s)
        lines = self._process.output().splitlines()
        if status:
            raise LabError(f"probing failed: {lines[-1] if lines else f'exit status {status}'}")
        self._report = Report.from_json(lines[-1])

    def kill(self) -> None:
        """Kill the probe; no report follows."""
        self._process.kill()


class Lab:
    """A lab. Entering it builds it with all nodes powered on and no daemon; leaving removes it."""

    def __init__(self, settings: LabSettings, mine: Claim | None = None) -> None:
        """Prepare a lab under the name `mine`; without one the lab claims a new name."""
        self.settings = settings
        self.claim = mine or claim.claim()
        self.network = Network(self.claim.namespace("switch"))
        places = [self._place(number) for number in range(1, settings.zookeepers + 1)]
        self.zookeeper = Ensemble(
            self.claim.directory,
            places,
            Times(settings.tick_ms, settings.init_limit, settings.sync_limit),
        )
        self.nodes = {number: self._node(number) for number in range(1, settings.nodes + 1)}
        self.client = self.claim.namespace("client")

    def _place(self, server: int) -> ServerLocation:
        return ServerLocation(
            str(addresses.zookeeper_address(server)),
            namespace=self.claim.namespace(f"zookeeper{server}"),
        )

    def _node(self, number: int) -> LabNode:
        settings = self.settings
        arguments = [
            f"--total-nodes={settings.total_nodes}",
            f"--zk={self.zookeeper.connect_string}",
            f"--cluster-ip={settings.vip}",
            f"--interface={INTERFACE}",
            f"--dataplane={settings.dataplane}",
            f"--session-timeout={settings.session_timeout_s}",
            *settings.more_flags,
        ]
        return LabNode(
            Machine(number, self.claim.namespace(f"node{number}"), self.claim.directory),
            self.network,
            arguments,
        )

    def build(self) -> None:
        """Build the networks and the client, start ZooKeeper, and power every node on."""
        self.network.create()
        self._plug_client()
        for server in self.zookeeper.servers:
            self._plug_zookeeper(server.number, server.place)
        self.zookeeper.start()
        for node in self.nodes.values():
            node.power_on()

    def _plug_client(self) -> None:
        network.make_namespace(self.client)
        self.network.plug(
            "client", TRAFFIC, Socket(self.client, INTERFACE, addresses.CLIENT_ROUTER)
        )
        network.own_range(self.client, addresses.CLIENTS)
        network.discard_range(self.client, addresses.PROBERS)
        # Like a real router, the client's router reaches the VIP's network directly by a link.
        network.add_route(
            self.client, IPv4Network(f"{self.settings.vip}/24", strict=False), INTERFACE
        )

    def _plug_zookeeper(self, number: int, place: ServerLocation) -> None:
        in_namespace = self.claim.namespace(f"zookeeper{number}")
        network.make_namespace(in_namespace)
        self.network.plug(
            f"zookeeper{number}",
            MANAGEMENT,
            Socket(in_namespace, INTERFACE, IPv4Address(place.host)),
        )

    def close(self) -> None:
        """Remove the lab; a second call does nothing."""
        claim.remove(self.claim.name)
        for node in self.nodes.values():
            node.reap()
        self.zookeeper.close()

    def __enter__(self) -> Self:
        try:
            self.build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            self.claim.release()

    def start(self) -> None:
        """Start the daemon on every node and wait until every daemon sees all members."""
        for node in self.nodes.values():
            node.start_daemon()
        self.settle()

    def live(self) -> tuple[int, ...]:
        """The numbers of the nodes whose daemon runs."""
        return tuple(number for number, node in self.nodes.items() if node.runs_daemon)

    def settle(
        self,
        members: Collection[int] | None = None,
        timeout_s: float = SETTLE_TIMEOUT_S,
        shares: Mapping[str, int] | None = None,
    ) -> Picture:
        """Wait until every member logs exactly these members and shares, and its kernel state.

        `members` defaults to the nodes whose daemon runs. `shares` maps member name to number of
        buckets; give it for a change that leaves the members the same. Returns the picture of one
        daemon. Raises LabError when a daemon ends, or after `timeout_s`.
        """
        expected = self.live() if members is None else tuple(sorted(members))
        if not expected:
            raise LabError("waiting for the daemons to settle: no daemon runs")
        daemons = [self.nodes[number].daemon for number in expected]
        return wait_for(
            lambda: self._agreed(expected, shares),
            daemons,
            timeout_s,
            f"all daemons to see members {list(expected)}",
        )

    def _agreed(self, members: tuple[int, ...], shares: Mapping[str, int] | None) -> Picture | None:
        pictures = [self.nodes[number].picture() for number in members]
        first = pictures[0]
        if (
            first is None
            or first.members != members
            or (shares is not None and first.shares != shares)
        ):
            return None
        agreed = all(
            picture is not None and picture._replace(held=first.held) == first
            for picture in pictures
        )
        return first if agreed else None

    def probe(self, plan: ProbePlan | None = None) -> Report:
        """Carry out a plan with a fixed number of requests and return the report."""
        chosen = self._plan(plan or ProbePlan())
        if chosen.requests is None:
            raise LabError("probing: a plan without a number of requests never ends: use probing()")
        probing = self._start(chosen)
        probing.finish(chosen.requests / chosen.rate_per_s + PROBE_MARGIN_S)
        return probing.report

    @contextmanager
    def probing(self, plan: ProbePlan | None = None) -> Iterator[Probing]:
        """Probe at a steady rate while the block runs.

        The report is available after the block; its times are CLOCK_MONOTONIC.
        """
        probing = self._start(replace(self._plan(plan or ProbePlan()), requests=None))
        try:
            yield probing
            probing.stop()
        finally:
            probing.kill()

    def _plan(self, plan: ProbePlan) -> ProbePlan:
        return replace(plan, vip=self.settings.vip)

    def _start(self, plan: ProbePlan) -> Probing:
        command = python_module("maglev0.lab.traffic.probe", *plan.arguments(), "--json")
        process = Process(
            "probing client", command, self.claim.directory / "probe.log", self.client
        )
        process.wait_line("^probing$")
        return Probing(process, plan)
