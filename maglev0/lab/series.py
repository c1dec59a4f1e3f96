"""Makes one change after the other, each many times, under clients, and prints what it cost them.

Usage:
  series SHOW [options]

Options:
  --runs=N     how often each change is made [default: 20]
  --seed=N     chooses where chance has a say [default: 1]
  --rate=N     requests a second from fresh ports, over the buckets that change [default: 2000]
  --logs=DIR   where the logs of a series with faults are copied [default: .cache/chaos]
  -h, --help   show this text

Shows:
  planned      join, leave, crash and restart, restart, weight: 4 nodes, 65,537 buckets,
               200 connections held
  losses       a daemon that stays dead, a lost host, a cut traffic port;
               sessions of 1 s, ticks of 200 ms
  pauses       SIGSTOP for three sessions, and stops at random system calls (ten times as many)
  zookeeper    leader killed, leader silent, all servers away for 30 s;
               recommended and sample zoo.cfg, release and hold

Exit status: 0 all was as promised, 1 it was not, or the lab cannot run here, 2 a flag is wrong.
"""

from __future__ import annotations

import random
import socket
import sys
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import docopt

from maglev0.core import table
from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashFamily, HashMode
from maglev0.errors import ConfigError, MaglevError
from maglev0.lab.chaos import aftermath, report
from maglev0.lab.chaos.faults import FAULTS
from maglev0.lab.chaos.run import keep_logs
from maglev0.lab.chaos.stage import Choices, Trial
from maglev0.lab.chaos.verdict import judge
from maglev0.lab.errors import LabError
from maglev0.lab.testbed import addresses, prerequisites, supervisor
from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.traffic.clients import Clients, Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from maglev0.lab.testbed.claim import Claim

NODES, TOTAL_NODES, SEED = 4, 65_537, 1
TARGET = NODES  # the node to which everything happens
SOURCES = 256
SETTINGS = LabSettings(
    nodes=NODES,
    total_nodes=TOTAL_NODES,
    dataplane="nftables",
    session_timeout_s=1.0,
    zookeepers=3,
    more_flags=(f"--hash-seed={SEED}",),
)
# The README's, with sessions of four ticks, and the sample that ZooKeeper comes with, where no
# session is shorter than two ticks.
RECOMMENDED = replace(SETTINGS, session_timeout_s=2.0, tick_ms=500, init_limit=20, sync_limit=2)
SAMPLE = replace(SETTINGS, session_timeout_s=4.0, tick_ms=2000, init_limit=10, sync_limit=5)
AWAY_S = 30.0
AT_TARGET = Choices(TARGET)
EVEN = dict.fromkeys(range(1, NODES + 1), 1)


@dataclass(frozen=True)
class Series:
    """Faults in turn, again and again.

    `sources` tells which buckets are asked in, `hold` that double answers are expected, `idle` that
    nothing else is done to the machine meanwhile, so that the percentiles of planned changes count.
    """

    title: str
    settings: LabSettings
    faults: tuple[str, ...]
    sources: tuple[int, ...]
    times: int
    choices: Choices = AT_TARGET
    hold: bool = False
    idle: bool = False


def sources_where(wanted: Callable[[int], bool], count: int = SOURCES) -> tuple[int, ...]:
    """The first probers whose bucket is wanted."""
    hashing = PacketHash(HashFamily.NFTABLES, HashMode.SOURCE_IP, SEED, TOTAL_NODES)
    flows = (
        PacketFields(addresses.prober_address(number), socket.IPPROTO_TCP)
        for number in range(addresses.PROBERS.num_addresses - 2)
    )
    return tuple(
        islice(
            (number for number, flow in enumerate(flows) if wanted(hashing.bucket(flow))),
            count,
        )
    )


def moving(before: dict[int, int], after: dict[int, int]) -> Callable[[int], bool]:
    """Whether a bucket changes its owner between two sets of members, each with its weight."""
    owners = [
        table.build(TOTAL_NODES, {f"backend-{node}": weight for node, weight in members.items()})
        for members in (before, after)
    ]
    return lambda bucket: owners[0][bucket - 1] != owners[1][bucket - 1]


def planned(times: int) -> list[Series]:
    """Joins and leaves in turn, restarts of both kinds, and weights to and fro."""
    # The daemon's default session, whose lease outlasts a restart; and one ZooKeeper server, for
    # three beside four daemons on a machine with two cores would measure each other.
    settings = replace(SETTINGS, session_timeout_s=4.0, zookeepers=1)
    without = {node: weight for node, weight in EVEN.items() if node != TARGET}
    shared = sources_where(moving(EVEN, without))
    heavier = sources_where(moving(EVEN, EVEN | {TARGET: 2}))
    return [
        Series(
            "leave and join",
            settings,
            ("leave", "join"),
            shared,
            times,
            Choices(TARGET, drain_use_s=5.0),
            idle=True,
        ),
        Series("crash and restart", settings, ("crash",), shared, times, idle=True),
        Series("restart", settings, ("restart",), shared, times, idle=True),
        Series(
            "weight 1 to 2 and back",
            settings,
            ("weight",),
            heavier,
            times,
            Choices(TARGET, weights=(1, 2)),
            idle=True,
        ),
    ]


def losses(times: int) -> list[Series]:
    """What a node's loss costs; all buckets are asked in, so that those of the others show, too."""
    everywhere = sources_where(lambda _bucket: True)
    return [
        Series(fault, SETTINGS, (fault,), everywhere, times)
        for fault in ("kill", "lose-host", "cut-traffic")
    ]


def pauses(times: int) -> list[Series]:
    """A daemon that stands still, wherever it was."""
    everywhere = sources_where(lambda _bucket: True)
    return [
        Series("SIGSTOP for three sessions", SETTINGS, ("pause-long",), everywhere, times),
        Series(
            "stopped at system calls",
            SETTINGS,
            ("stop-at-call",),
            everywhere,
            10 * times,
            Choices(),
        ),
    ]


def zookeeper(times: int) -> list[Series]:
    """What ZooKeeper's troubles do to clients."""
    everywhere = sources_where(lambda _bucket: True)
    found = []
    for name, settings in (("recommended zoo.cfg", RECOMMENDED), ("sample zoo.cfg", SAMPLE)):
        for loss in ("release", "hold"):
            flags = replace(settings, more_flags=(*settings.more_flags, f"--zk-loss={loss}"))
            for fault in ("kill-leader", "freeze-leader", "lose-zookeeper"):
                title = f"{name}, {loss}: {fault}"
                found.append(
                    Series(
                        title,
                        flags,
                        (fault,),
                        everywhere,
                        times,
                        Choices(away_s=AWAY_S),
                        hold=loss == "hold",
                    )
                )
    return found


SHOWS = {"planned": planned, "losses": losses, "pauses": pauses, "zookeeper": zookeeper}


def _performed(series: Series, seed: int, rate: float, logs: Path, mine: Claim) -> int:
    return perform(Lab(series.settings, mine), series, seed, rate, logs)


def perform(cluster: Lab, series: Series, seed: int, rate: float, logs: Path) -> int:
    """Do one series on a cluster that is not built yet; returns the exit status."""
    cluster.build()
    cluster.start()
    with Clients(cluster, Pace(series.sources, rate, held_rate=0.0)) as clients:
        clients.wait_held()
        stage = Trial(cluster, clients, random.Random(seed), series.choices)  # noqa: S311  no secret
        stage.quiet()
        broke_off = _repeat(stage, series)
        result, timeline = clients.stop(), stage.timeline()
    verdict = judge(result.tally, result.turns, timeline, hold=series.hold, idle=series.idle)
    if broke_off is not None:
        verdict.faults.append(broke_off)
    lines = [
        f"== {series.title}, {series.times} times",
        report.text(verdict, result, timeline, hold=series.hold),
    ]
    lines += aftermath.lines(result.tally, timeline)
    sys.stdout.write("\n".join(lines) + "\n\n")
    if not verdict.good:
        keep_logs(cluster, logs / "-".join(series.title.replace(",", "").replace(":", "").split()))
    return 0 if verdict.good else 1


def _repeat(stage: Trial, series: Series) -> str | None:
    """All times; what ended it early, if anything did."""
    try:
        for _ in range(series.times):
            for name in series.faults:
                FAULTS[name].act(stage)
                stage.quiet()
    except LabError as error:
        return f"ended early, in {stage.episodes[-1].cause} ({stage.episodes[-1].note}): {error}"
    return None


def main() -> int:
    """Run the program; returns the exit status."""
    try:
        arguments = docopt.docopt(__doc__)
        if arguments["SHOW"] not in SHOWS:
            raise ConfigError(f"{arguments['SHOW']}: no such show; series --help names all")
        prerequisites.check(HashFamily.NFTABLES)
        seed, rate, logs = (
            int(arguments["--seed"]),
            float(arguments["--rate"]),
            Path(arguments["--logs"]),
        )
        status = 0
        for series in SHOWS[arguments["SHOW"]](int(arguments["--runs"])):
            ended = supervisor.run(partial(_performed, series, seed, rate, logs))
            if ended > 1:
                return ended
            status = max(status, ended)
    except MaglevError as error:
        sys.stderr.write(f"series: {error}\n")
        return error.exit_status
    return status


if __name__ == "__main__":
    sys.exit(main())
