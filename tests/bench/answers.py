"""Who answers whom, before, during and after changes of members.

`python -m tests.bench.answers`, as root; about half a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.traffic.probe import ProbePlan
from maglev0.lab.traffic.report import Report

SETTINGS = LabSettings(nodes=4, total_nodes=65_537, dataplane="nftables")
QUIET = ProbePlan(requests=5000, clients=250, protocols=("tcp", "udp", "ping"))
BUSY = ProbePlan(requests=None, clients=250, protocols=("tcp", "udp", "ping"))
ROUNDS = 3  # of all clients, before and behind the change


class Phase(NamedTuple):
    """What was going on, and what the clients saw of it."""

    name: str
    report: Report


def during(cluster: Lab, change: Callable[[], None]) -> Report:
    """Probe from before a change until some rounds after all running daemons have seen it."""
    with cluster.probing(BUSY) as probing:
        probing.let_all_ask(ROUNDS)
        change()
        cluster.settle()
        probing.let_all_ask(ROUNDS)
    return probing.report


def run() -> tuple[Phase, ...]:
    """Three nodes, a fourth joins, one of the first loses its power."""
    with Lab(SETTINGS) as cluster:
        for number in (1, 2, 3):
            cluster.nodes[number].start_daemon()
        cluster.settle()
        return (
            Phase("three nodes", cluster.probe(QUIET)),
            Phase("while the fourth joins", during(cluster, cluster.nodes[4].start_daemon)),
            Phase("four nodes", cluster.probe(QUIET)),
            Phase("while one loses its power", during(cluster, cluster.nodes[2].power_off)),
            Phase("the three that are left", cluster.probe(QUIET)),
        )


def phases_table(phases: tuple[Phase, ...]) -> Table:
    shown = Table(
        title=(
            f"requests over TCP, UDP and ping, {SETTINGS.total_nodes:,} buckets, "
            f"session timeout {SETTINGS.session_timeout_s:g} s"
        )
    )
    for column in (
        "",
        "requests",
        "clients",
        "once",
        "twice or more",
        "never",
        "share of each node",
    ):
        shown.add_column(column, justify="right" if column else "left")
    for name, report in phases:
        shares = sorted(report.shares().items())
        answered = sum(count for _node, count in shares)
        listed = "  ".join(
            f"{node.removeprefix('backend-')}: {count / answered:.1%}" for node, count in shares
        )
        counts = (len(report.exchanges), report.clients, report.once, report.twice, report.never)
        shown.add_row(name, *(f"{count:,}" for count in counts), listed)
    return shown


def main() -> None:
    """Print the table."""
    Console(width=130).print(phases_table(run()))


if __name__ == "__main__":
    main()
