"""Causes faults in a lab of real daemons, kernels and ZooKeeper servers under clients; then judges.

Usage:
  chaos [options]

Options:
  --seconds=S          for how long faults begin; the last one is finished [default: 600]
  --rounds=N           instead of --seconds: how often each fault is caused, 1 to 1000
  --seed=N             chooses the faults (left out: drawn at random and printed)
  --nodes=N            servers in the lab, 3 to 10 [default: 5]
  --zookeepers=N       ZooKeeper servers, 1 or 3 [default: 3]
  --total-nodes=N      buckets that the servers share [default: 65537]
  --session-timeout=S  ZooKeeper session timeout in seconds [default: 2]
  --zk-loss=WHAT       what daemons do without ZooKeeper: release or hold; with hold double answers
                       are counted, but are no fault [default: release]
  --xdp=MODE           the daemons' XDP filter: auto, native, generic or off [default: auto]
  --faults=LIST        only these, e.g. join,leave,kill; all names are listed below
  --rate=N             requests a second from fresh ports [default: 600]
  --logs=DIR           directory for the logs of a run that is not good [default: .cache/chaos]
  --json               one line of JSON instead of the table
  -h, --help           show this text

Faults: join leave kill crash restart restart-all weight pause-short pause-long stop-at-call
cut-management cut-traffic mute-traffic cut-both lose-host kill-leader freeze-leader lose-zookeeper
flush load

The report separates faults of safety ("NOT AS PROMISED": double answers, broken connections,
buckets that stay unserved) from bounds in time ("SLOWER THAN PROMISED"), which hold on an idle
machine.
Exit status: 0 all was as promised, 1 it was not, or the lab cannot run here, 2 a flag is wrong.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docopt

from maglev0.core.service import HashFamily, Xdp
from maglev0.errors import ConfigError, MaglevError
from maglev0.lab.chaos import report
from maglev0.lab.chaos.faults import FAULTS
from maglev0.lab.chaos.stage import Trial
from maglev0.lab.chaos.verdict import judge
from maglev0.lab.errors import LabError
from maglev0.lab.testbed import prerequisites, supervisor
from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.traffic.clients import ClientResult, Clients, Pace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maglev0.lab.chaos.episodes import Timeline

ZK_LOSS = ("release", "hold")
SEEDS = range(1, 1_000_000)


@dataclass(frozen=True)
class ChaosPlan:
    """One run: the faults, the seed of their order, the lab, and how long.

    `rounds` is how often each fault is caused; None: faults begin for `seconds`.
    """

    settings: LabSettings
    faults: tuple[str, ...]
    seed: int
    seconds: float
    rounds: int | None
    rate: float
    hold: bool
    logs: Path
    as_json: bool


def chosen(faults: tuple[str, ...], rng: random.Random) -> Iterator[str]:
    """All of the faults in random order, again and again: each as often as the others."""
    while True:
        yield from rng.sample(faults, len(faults))


def run(cluster: Lab, plan: ChaosPlan) -> tuple[ClientResult, Timeline, str | None]:
    """Run the plan on a cluster that is built.

    Returns what clients saw, what was done, and the error that ended it early or None.
    """
    cluster.start()
    with Clients(cluster, Pace(rate=plan.rate)) as clients:
        clients.wait_held()
        stage = Trial(cluster, clients, random.Random(plan.seed))  # noqa: S311  no secret
        stage.quiet()
        broke_off = None
        try:
            _trouble(stage, plan)
        except LabError as error:
            broke_off = str(error)
        return clients.stop(), stage.timeline(), broke_off


def _trouble(stage: Trial, plan: ChaosPlan) -> None:
    began_s = time.monotonic()
    most = None if plan.rounds is None else plan.rounds * len(plan.faults)
    for name in islice(chosen(plan.faults, stage.rng), most):
        if plan.rounds is None and time.monotonic() > began_s + plan.seconds:
            return
        _report_progress(f"{time.monotonic() - began_s:6.1f} s  {name}")
        if len(stage.serving) < FAULTS[name].least:
            FAULTS["join"].act(stage)
            stage.quiet()
        FAULTS[name].act(stage)
        stage.quiet()


def _report_progress(text: str) -> None:
    """Write to stderr: stdout holds the result alone."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def trial(cluster: Lab, plan: ChaosPlan) -> int:
    """Build, run, judge and report; returns the exit status."""
    cluster.build()
    result, timeline, broke_off = run(cluster, plan)
    verdict = judge(result.tally, result.turns, timeline, hold=plan.hold)
    if broke_off is not None:
        verdict.faults.append(
            f"ended early, in {timeline.episodes[-1].cause} "
            f"({timeline.episodes[-1].note}): {broke_off}"
        )
    if plan.as_json:
        sys.stdout.write(report.to_json(verdict, result, plan.seed) + "\n")
    else:
        sys.stdout.write(
            f"seed {plan.seed}\n{report.text(verdict, result, timeline, hold=plan.hold)}\n"
        )
    if not verdict.good:
        keep_logs(cluster, plan.logs / f"seed-{plan.seed}")
    return 0 if verdict.good else 1


def keep_logs(cluster: Lab, directory: Path) -> None:
    """Copy the logs, and what the client saw, before the lab is removed."""
    no_use = shutil.ignore_patterns("version-2", "orders", "back", "lock", "*-run", "*-bpf")
    shutil.copytree(cluster.claim.directory, directory, ignore=no_use, dirs_exist_ok=True)
    _report_progress(f"logs and what the client saw: {directory}")


def _plan(arguments: dict[str, Any]) -> ChaosPlan:
    names = tuple(arguments["--faults"].split(",")) if arguments["--faults"] else tuple(FAULTS)
    unknown = sorted(set(names) - set(FAULTS))
    if unknown:
        raise ConfigError(
            f"--faults={arguments['--faults']}: no such fault: "
            f"{', '.join(unknown)}; chaos --help names all"
        )
    if arguments["--zk-loss"] not in ZK_LOSS:
        raise ConfigError(f"--zk-loss={arguments['--zk-loss']}: must be release or hold")
    if arguments["--xdp"] not in tuple(Xdp):
        raise ConfigError(f"--xdp={arguments['--xdp']}: must be auto, native, generic or off")
    hold = arguments["--zk-loss"] == "hold"
    settings = LabSettings(
        nodes=int(_number(arguments, "--nodes", 3, 10)),
        total_nodes=int(_number(arguments, "--total-nodes", 10, 1 << 20)),
        dataplane="nftables",
        session_timeout_s=_number(arguments, "--session-timeout", 0.4, 4.0),
        zookeepers=int(_number(arguments, "--zookeepers", 1, 3)),
        more_flags=(f"--xdp={arguments['--xdp']}", f"--zk-loss={arguments['--zk-loss']}"),
    )
    seed = (
        random.SystemRandom().choice(SEEDS)
        if arguments["--seed"] is None
        else int(_number(arguments, "--seed", 0, 1 << 63))
    )
    seconds, rate = (
        _number(arguments, "--seconds", 0, 86_400),
        _number(arguments, "--rate", 1, 5_000),
    )
    rounds = None if arguments["--rounds"] is None else int(_number(arguments, "--rounds", 1, 1000))
    logs = Path(arguments["--logs"])
    return ChaosPlan(settings, names, seed, seconds, rounds, rate, hold, logs, arguments["--json"])


def _number(arguments: dict[str, Any], flag: str, least: float, most: float) -> float:
    text = arguments[flag]
    try:
        value = float(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ConfigError(f"{flag}={text}: must be a number from {least:g} to {most:g}")
    return value


def main() -> int:
    """Run the program; returns the exit status."""
    try:
        plan = _plan(docopt.docopt(__doc__))
        prerequisites.check(HashFamily.NFTABLES)
        return supervisor.run(lambda mine: trial(Lab(plan.settings, mine), plan))
    except MaglevError as error:
        sys.stderr.write(f"chaos: {error}\n")
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
