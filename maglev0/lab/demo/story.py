"""The story a newcomer sees: nodes join, clients are served, a node is lost and comes back, another leaves in order."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from maglev0.lab.testbed.node import LEAVE_TIMEOUT_S
from maglev0.lab.traffic.clients import ClientResult, Clients, Pace
from maglev0.lab.traffic.probe import ProbePlan

if TYPE_CHECKING:
    from maglev0.lab.demo.narration import Narrator
    from maglev0.lab.testbed.cluster import Lab
    from maglev0.lab.traffic.report import Report

QUIET = ProbePlan(requests=2000, clients=250)
# Each client asks every 100 ms: how finely the time without an answer is known. UDP alone: a TCP connection whose bucket moves is reset by
# its new owner, who does not know it, and that counts as a second answer, too.
DURING_CHANGE = ProbePlan(requests=None, clients=100, rate_per_s=1000.0, protocols=("udp",))
# Nothing but held connections, which exchange a line each second.
CONNECTIONS = Pace((0,), rate=0.0, held_rate=0.0, connections=100)
DRAIN_ROUNDS = 15  # of 100 ms each: longer than it takes every user of a connection to speak
# A fault's story is in the first lines; a node that lists its 64 node numbers again and again would hide it.
EVIDENCE_LINES = 100


class Demo:
    """One telling of the story, on a cluster that has been built and runs no daemon yet."""

    def __init__(self, cluster: Lab, narrator: Narrator) -> None:
        self._cluster = cluster
        self._narrator = narrator
        self._faults: list[str] = []

    def tell(self) -> int:
        """All chapters; 0 if no request was answered twice, every one in quiet times was answered, and the lost node's clients were served again."""
        self._join()
        self._serve(f"{len(self._cluster.nodes)} nodes serve")
        lost = min(2, len(self._cluster.nodes))
        self._lose(lost)
        self._serve(f"without backend-{lost}")
        with Clients(self._cluster, CONNECTIONS) as users:
            users.wait_held()
            self._bring_back(lost)
            self._serve(f"with backend-{lost} again")
            self._leave(len(self._cluster.nodes), users)
            self._tell_connections(users.stop())
        self._serve(f"after backend-{len(self._cluster.nodes)} left")
        return self._end()

    def _join(self) -> None:
        self._narrator.chapter(
            "The nodes join one by one. Every node computes the same table: who owns which node number (a digit for each)"
        )
        for node in self._cluster.nodes.values():
            started_s = time.monotonic()
            node.start_daemon()
            picture = self._cluster.settle()
            self._narrator.say(
                f"members {list(picture.members)}, seen by all {time.monotonic() - started_s:.1f} s after the daemon's start"
            )
            self._narrator.owners(picture)

    def _serve(self, when: str) -> None:
        """Probe while nothing changes: anything but one answer to each request is a fault."""
        self._narrator.chapter(
            f"{QUIET.requests} requests over TCP and UDP, each from a fresh port: {when}"
        )
        before = {node.machine.name: len(node.log_lines()) for node in self._cluster.nodes.values()}
        report = self._cluster.probe(QUIET)
        self._narrator.bars(report)
        if report.clean:
            self._narrator.good(report.summary())
        else:
            self._fault(f"{when}: {report.summary()}")
            self._tell_evidence(report, before)

    def _tell_evidence(self, report: Report, before: dict[str, int]) -> None:
        """Say when the faults happened and what the daemons said meanwhile: the lab, and its logs with it, are about to be removed."""
        first_s = report.exchanges[0].sent_s
        wrong = [exchange for exchange in report.exchanges if exchange.times_answered != 1]
        clients = len({exchange.client for exchange in wrong})
        since, until = (exchange.sent_s - first_s for exchange in (wrong[0], wrong[-1]))
        self._narrator.say(
            f"{len(wrong)} requests of {clients} clients, sent {since:.2f} s to {until:.2f} s after the first of all"
        )
        for node in self._cluster.nodes.values():
            for line in node.log_lines()[before[node.machine.name] :][:EVIDENCE_LINES]:
                self._narrator.say(f"  {node.machine.name}: {line}")

    def _lose(self, number: int) -> None:
        self._narrator.chapter(
            f"backend-{number} is lost: its plugs are pulled and everything on it gets kill -9, while clients keep asking"
        )
        with self._cluster.probing(DURING_CHANGE) as probing:
            probing.let_all_ask(rounds=5)
            lost_s = time.monotonic()
            self._cluster.nodes[number].power_off()
            picture = self._cluster.settle()
            seen_s = time.monotonic()
            probing.let_all_ask(rounds=4)
        self._narrator.say(
            f"members {list(picture.members)}, seen by all {seen_s - lost_s:.1f} s after the loss"
        )
        self._narrator.owners(picture)
        self._tell_outages(probing.report, lost_s)

    def _tell_outages(self, report: Report, lost_s: float) -> None:
        outages = report.outages()
        settings = self._cluster.settings
        stranded = [outage.client for outage in outages if outage.until_s is None]
        if stranded:
            self._fault(f"{len(stranded)} clients were not served again after the loss")
        served = [outage.until_s for outage in outages if outage.until_s is not None]
        if served:
            self._narrator.say(
                f"every client was served again {max(served) - lost_s:.2f} s after the loss (session timeout {settings.session_timeout_s:g} s)"
            )
        self._tell_change(report)

    def _tell_change(self, report: Report) -> None:
        """Tell what clients saw of a change: going without is its price, two answers to one request are a fault at any time."""
        affected = len({outage.client for outage in report.outages()})
        self._narrator.say(
            f"{affected} of {report.clients} clients went without meanwhile; all in all {report.summary()}"
        )
        if report.twice:
            self._fault(f"{report.twice} requests were answered twice during the change")

    def _bring_back(self, number: int) -> None:
        self._narrator.chapter(f"backend-{number} comes back: power on, daemon started")
        started_s = time.monotonic()
        self._cluster.nodes[number].power_on()
        self._cluster.nodes[number].start_daemon()
        picture = self._cluster.settle()
        self._narrator.say(
            f"members {list(picture.members)}, seen by all {time.monotonic() - started_s:.1f} s after power on"
        )
        self._narrator.owners(picture)

    def _leave(self, number: int, users: Clients) -> None:
        self._narrator.chapter(
            f"backend-{number} is stopped in order, by SIGTERM; it serves the connections that it has until their users end them"
        )
        node, others = self._cluster.nodes[number], set(self._cluster.live()) - {number}
        with self._cluster.probing(DURING_CHANGE) as probing:
            probing.let_all_ask(rounds=2)
            started_s = time.monotonic()
            node.daemon.signal(signal.SIGTERM)
            picture = self._cluster.settle(others)
            seen_s = time.monotonic()
            probing.let_all_ask(rounds=DRAIN_ROUNDS)
            ended = users.retire(number)
            status = node.daemon.wait(LEAVE_TIMEOUT_S)
            stopped_s = time.monotonic()
        if status:
            self._fault(f"backend-{number} ended with exit status {status}")
        self._narrator.say(
            f"members {list(picture.members)}, seen by all after {seen_s - started_s:.1f} s; "
            f"the users of {ended} connections ended them, and its daemon ended {stopped_s - started_s:.1f} s after the signal"
        )
        self._narrator.owners(picture)
        self._tell_change(probing.report)

    def _tell_connections(self, result: ClientResult) -> None:
        """Tell what became of connections; CLUSTERIP cannot keep them, so there it is no fault."""
        broken = sum(turn.is_break for turn in result.turns)
        text = f"{CONNECTIONS.connections} TCP connections were held while one node joined and another left: {broken} broken"
        if broken and "NFTABLES Nodes:" in self._cluster.nodes[1].daemon.output():
            self._fault(text)
        else:
            self._narrator.say(text)

    def _fault(self, text: str) -> None:
        self._faults.append(text)
        self._narrator.bad(text)

    def _end(self) -> int:
        self._narrator.chapter(
            "The end. Everything is removed now; maglev0 lab --keep leaves a cluster running to play with"
        )
        if not self._faults:
            self._narrator.good(
                "no request was answered twice, and in quiet times every one was answered"
            )
            return 0
        for fault in self._faults:
            self._narrator.bad(fault)
        return 1
