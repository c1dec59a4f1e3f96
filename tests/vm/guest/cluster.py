"""Three servers on a switch, a client, and a real ZooKeeper on the first.

The lab's parts, with the patience that an emulated machine needs.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from itertools import count
from pathlib import Path
from typing import NamedTuple, Self

from maglev0.lab.testbed import addresses, claim, namespace, network, node_log
from maglev0.lab.testbed.network import TRAFFIC, Network, Socket
from maglev0.lab.testbed.node_log import Picture
from maglev0.lab.testbed.process import Process, wait_for
from maglev0.lab.testbed.zookeeper import Ensemble, ServerLocation, Times
from maglev0.lab.traffic.probe import ProbePlan
from maglev0.lab.traffic.report import Report
from tests.vm.guest.forked import Forked
from tests.vm.guest.space import PROC_FILE, flush

# A JVM takes 10 s to start here; many times that while other programs keep the machine's processors
# busy.
PATIENCE_S = 200.0
PLAN = ProbePlan(
    requests=90, clients=30, protocols=("tcp", "udp", "ping"), rate_per_s=20.0, deadline_s=20.0
)
# Of TCP a bucket that moves leaves connections to the old owner's segments and the new one's
# resets: no answers to one request.
STEADY = ProbePlan(
    requests=None, clients=60, protocols=("udp", "ping"), rate_per_s=40.0, deadline_s=5.0
)


class Pace(NamedTuple):
    """The times of a cluster: of its ZooKeeper, and the session timeout of its daemons."""

    zookeeper: Times
    session_timeout_s: float


PATIENT = Pace(Times(tick_ms=2000), 30.0)
# A lease of six seconds: on busy processors the emulated machine stands still for longer than
# three, and each watchdog ends its daemon.
BRISK = Pace(Times(tick_ms=500), 9.0)


class Cluster:
    """As a context manager: all but the daemons runs inside."""

    def __init__(self, nodes: int, pace: Pace = PATIENT) -> None:
        self._pace = pace
        self.claim = claim.claim()
        self.nodes = range(1, nodes + 1)
        self.network = Network(self.claim.namespace("switch"))
        self.client = self.claim.namespace("client")
        self._services: list[Process] = []
        self._probes = count(1)
        self._zookeeper = Ensemble(
            self.claim.directory,
            [ServerLocation("0.0.0.0", namespace=self.node(1))],  # noqa: S104
            pace.zookeeper,
        )

    def node(self, number: int) -> str:
        """The namespace of a server."""
        return self.claim.namespace(f"node{number}")

    def __enter__(self) -> Self:
        try:
            self.network.create()
            self._plug("client", self.client, addresses.CLIENT_ROUTER)
            network.own_range(self.client, addresses.CLIENTS)
            for number in self.nodes:
                self._boot(number)
            self._zookeeper._write_configuration(self._zookeeper.servers[0])
            self._zookeeper.servers[0].start()
            for service in self._services:
                service.wait_line("^serving$", PATIENCE_S)
            self._zookeeper.servers[0].wait_until_serving(PATIENCE_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for service in self._services:
                service.kill()
            self._zookeeper.close()
            for number in self.nodes:
                if namespace.path_of(self.node(number)).exists():
                    with namespace.inside(self.node(number)):
                        flush()
            claim.remove(self.claim.name)
        finally:
            self.claim.release()

    def _plug(self, cable: str, into: str, address: IPv4Address, mac: str | None = None) -> None:
        network.make_namespace(into)
        self.network.plug(cable, TRAFFIC, Socket(into, "eth0", address, mac))
        network.add_route(into, IPv4Network(f"{addresses.VIP}/24", strict=False), "eth0")

    def _boot(self, number: int) -> None:
        name = f"backend-{number}"
        self._plug(
            f"node{number}",
            self.node(number),
            addresses.node_address(number),
            addresses.node_mac(number),
        )
        network.add_route(self.node(number), addresses.CLIENTS, "eth0", addresses.CLIENT_ROUTER)
        arguments = [f"--name={name}", f"--port={addresses.SERVICE_PORT}"]
        log = self.claim.directory / f"{name}-service.log"
        self._services.append(
            Forked(
                f"service of {name}",
                "maglev0.lab.traffic.responder",
                arguments,
                log,
                self.node(number),
            )
        )

    def start_daemon(self, number: int, *flags: str) -> Process:
        """Start a daemon with the flags behind --my-id.

        The first server's finds ZooKeeper where flags left out look for it.
        """
        elsewhere = [] if number == 1 else [f"--zk={addresses.node_address(1)}"]
        pace = f"--session-timeout={self._pace.session_timeout_s:g}"
        log = self.claim.directory / f"backend-{number}.log"
        run = self.claim.directory / f"backend-{number}-run"
        run.mkdir(mode=0o700, exist_ok=True)
        arguments = [f"--my-id={number}", *elsewhere, pace, *flags]
        return Forked(
            f"daemon of backend-{number}",
            "maglev0",
            arguments,
            log,
            self.node(number),
            environment={"RUNTIME_DIRECTORY": str(run)},
        )

    def settle(self, daemons: dict[int, Process]) -> Picture:
        """Wait until every daemon's log shows all of them as members, and what its kernel then
        held.
        """
        members = tuple(sorted(daemons))

        def agreed() -> Picture | None:
            pictures = [node_log.latest(daemon.output()) for daemon in daemons.values()]
            return (
                pictures[0]
                if all(picture is not None and picture.members == members for picture in pictures)
                else None
            )

        return wait_for(agreed, list(daemons.values()), PATIENCE_S, f"members {members}")

    def in_force(self, number: int) -> str | None:
        """A server's proc file; None where there is no rule."""
        with namespace.inside(self.node(number)):
            return PROC_FILE.read_text().strip() if PROC_FILE.exists() else None

    def probe(self) -> Report:
        """Ask the VIP from many addresses and count who answers."""
        return reported(self.start_probe(PLAN))

    def start_probe(self, plan: ProbePlan) -> Process:
        """Begin to ask; `reported` tells what came of it."""
        log = Path(self.claim.directory, f"probe-{next(self._probes)}.log")
        probing = Forked(
            "probing client",
            "maglev0.lab.traffic.probe",
            [*plan.arguments(), "--json"],
            log,
            self.client,
        )
        probing.wait_line("^probing$", PATIENCE_S)
        return probing


def reported(probing: Process) -> Report:
    """What a probe found, once it has ended."""
    status = probing.wait(PATIENCE_S)
    last = probing.output().splitlines()[-1]
    assert status == 0, last
    return Report.from_json(last)
