"""The demonstration: nodes join and serve, one is lost and comes back, another leaves in order."""

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
# Each client asks every 100 ms: the time without an answer is known to that precision. UDP alone: a
# TCP connection whose bucket moves may be reset by the new owner, which does not know it, and that
# would count as a second answer.
DURING_CHANGE = ProbePlan(requests=None, clients=100, rate_per_s=1000.0, protocols=("udp",))
# Held connections alone, which exchange a line each second.
CONNECTIONS = Pace((0,), rate=0.0, held_rate=0.0, connections=100)
# Of 100 ms each: in that time each connection exchanges a line.
DRAIN_ROUNDS = 15
# The first lines show what happened; a node that lists its 64 buckets many times would hide it.
EVIDENCE_LINES = 100


class Demo:
    """One demonstration, on a cluster that has been built and runs no daemon yet.

    `quiet` is what clients ask between two changes.
    """

    def __init__(self, cluster: Lab, narrator: Narrator, quiet: ProbePlan = QUIET) -> None:
        self._cluster = cluster
        self._narrator = narrator
        self._quiet = quiet
        self._faults: list[str] = []

    def show(self) -> int:
        """Show all chapters; returns the exit status.

        It is 0 if no request was answered twice, each request was answered while nothing changed,
        and the clients of the lost node were served again.
        """
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
            self._show_connections(users.stop())
        self._serve(f"after backend-{len(self._cluster.nodes)} left")
        return self._end()

    def _join(self) -> None:
        self._narrator.chapter(
            "The nodes join one by one. All compute the same table of bucket owners, shown as a "
            "digit for each bucket"
        )
        self._narrator.say(
            "a packet's source address chooses its bucket; every node receives the packet, and the "
            "owner of the bucket answers"
        )
        for node in self._cluster.nodes.values():
            started_s = time.monotonic()
            node.start_daemon()
            picture = self._cluster.settle()
            self._narrator.say(
                f"members {list(picture.members)}: all nodes agree "
                f"{time.monotonic() - started_s:.1f} s after the daemon's start"
            )
            self._narrator.owners(picture)

    def _serve(self, when: str) -> None:
        """Probe while nothing changes: a fault unless each request gets exactly one answer."""
        self._narrator.chapter(
            f"{self._quiet.requests} requests over TCP and UDP, each from a new port: {when}"
        )
        before = {node.machine.name: len(node.log_lines()) for node in self._cluster.nodes.values()}
        report = self._cluster.probe(self._quiet)
        self._narrator.bars(report)
        if report.clean:
            self._narrator.good(report.summary())
        else:
            self._fault(f"{when}: {report.summary()}")
            self._show_evidence(report, before)

    def _show_evidence(self, report: Report, before: dict[str, int]) -> None:
        """Print when the faults happened and what the daemons logged: the logs go with the lab."""
        first_s = report.exchanges[0].sent_s
        wrong = [exchange for exchange in report.exchanges if exchange.times_answered != 1]
        clients = len({exchange.client for exchange in wrong})
        since, until = (exchange.sent_s - first_s for exchange in (wrong[0], wrong[-1]))
        self._narrator.say(
            f"{len(wrong)} requests of {clients} clients, sent {since:.2f} s to {until:.2f} s "
            "after the first request"
        )
        for node in self._cluster.nodes.values():
            for line in node.log_lines()[before[node.machine.name] :][:EVIDENCE_LINES]:
                self._narrator.say(f"  {node.machine.name}: {line}")

    def _lose(self, number: int) -> None:
        self._narrator.chapter(
            f"backend-{number} is lost: its cables are pulled and its processes killed (kill -9) "
            "while clients keep asking"
        )
        with self._cluster.probing(DURING_CHANGE) as probing:
            probing.let_all_ask(rounds=5)
            lost_s = time.monotonic()
            self._cluster.nodes[number].power_off()
            picture = self._cluster.settle()
            seen_s = time.monotonic()
            probing.let_all_ask(rounds=4)
        self._narrator.say(
            f"members {list(picture.members)}: all nodes agree {seen_s - lost_s:.1f} s "
            "after the loss"
        )
        self._narrator.owners(picture)
        self._show_outages(probing.report, lost_s)

    def _show_outages(self, report: Report, lost_s: float) -> None:
        outages = report.outages()
        settings = self._cluster.settings
        stranded = [outage.client for outage in outages if outage.until_s is None]
        if stranded:
            self._fault(f"{len(stranded)} clients were not served again after the loss")
        served = [outage.until_s for outage in outages if outage.until_s is not None]
        if served:
            self._narrator.say(
                f"every client was served again {max(served) - lost_s:.2f} s after the loss "
                f"(session timeout {settings.session_timeout_s:g} s)"
            )
        self._show_change(report)

    def _show_change(self, report: Report) -> None:
        """Print what clients saw of a change.

        Unanswered requests are its price; two answers to one request are a fault at any time.
        """
        affected = len({outage.client for outage in report.outages()})
        self._narrator.say(
            f"{affected} of {report.clients} clients got no answer for a while; "
            f"in total {report.summary()}"
        )
        if report.twice:
            self._fault(f"{report.twice} requests were answered twice during the change")

    def _bring_back(self, number: int) -> None:
        self._narrator.chapter(
            f"backend-{number} comes back: its power is on again, and its daemon starts"
        )
        started_s = time.monotonic()
        self._cluster.nodes[number].power_on()
        self._cluster.nodes[number].start_daemon()
        picture = self._cluster.settle()
        self._narrator.say(
            f"members {list(picture.members)}: all nodes agree "
            f"{time.monotonic() - started_s:.1f} s after power on"
        )
        self._narrator.owners(picture)

    def _leave(self, number: int, users: Clients) -> None:
        self._narrator.chapter(
            f"backend-{number} is stopped in order, by SIGTERM: the others take its buckets, and "
            "it serves its connections until their users close them"
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
            f"members {list(picture.members)}: all nodes agree {seen_s - started_s:.1f} s after "
            f"the signal; users closed {ended} connections, and the daemon ended "
            f"{stopped_s - started_s:.1f} s after the signal"
        )
        self._narrator.owners(picture)
        self._show_change(probing.report)

    def _show_connections(self, result: ClientResult) -> None:
        """Print what became of connections; CLUSTERIP cannot keep them."""
        broken = sum(turn.is_break for turn in result.turns)
        text = (
            f"{CONNECTIONS.connections} TCP connections were open while one node joined and "
            f"another left: {broken} broken"
        )
        if broken and "NFTABLES Nodes:" in self._cluster.nodes[1].daemon.output():
            self._fault(text)
        else:
            self._narrator.say(text)

    def _fault(self, text: str) -> None:
        self._faults.append(text)
        self._narrator.bad(text)

    def _end(self) -> int:
        self._narrator.chapter(
            "The end: the lab is removed; maglev0 lab --keep leaves a cluster running to play with"
        )
        if not self._faults:
            self._narrator.good(
                "no request was answered twice, and every request was answered while "
                "nothing changed"
            )
            return 0
        for fault in self._faults:
            self._narrator.bad(fault)
        return 1
