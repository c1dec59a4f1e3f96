"""maglev0 lab: a cluster in a box, on this machine alone.

Usage:
  maglev0 lab [--nodes=N] [--total-nodes=N] [--dataplane=NAME] [--session-timeout=S] [--zookeepers=N] [--keep]
  maglev0 lab --end [NAME...]
  maglev0 lab (-h | --help)

Options:
  --nodes=N             servers in the box, 2 to 50 [default: 4]
  --total-nodes=N       node numbers that they share [default: 64]
  --dataplane=NAME      auto, clusterip or nftables [default: auto]
  --session-timeout=S   ZooKeeper session timeout in seconds, short so that a loss shows quickly [default: 1]
  --zookeepers=N        ZooKeeper servers, 1 or 3 [default: 1]
  --keep                no demonstration: leave the cluster running and tell how to look around in it
  --end                 remove the labs named, or every lab that was kept or whose process is gone
  -h, --help            show this text

Needs root; makes network namespaces, one directory under /run and nothing else, and removes them at the end, also after Ctrl-C.
Exit status: 0 all went as promised, 1 it did not or the lab cannot run here, 2 a flag is wrong, 130 and 143 ended by a signal.
"""

from __future__ import annotations

import sys
from typing import Any

from maglev0.config.arguments import parse
from maglev0.core.service import HashFamily
from maglev0.errors import ConfigError, MaglevError
from maglev0.lab.demo import guide
from maglev0.lab.demo.narration import Narrator
from maglev0.lab.demo.story import Demo
from maglev0.lab.errors import LabError
from maglev0.lab.testbed import claim, prerequisites, supervisor
from maglev0.lab.testbed.cluster import Lab, LabSettings

# Memory and patience, not a limit of the thing itself: each daemon takes some 40 MB.
MOST_NODES = 50
# As many as the nftables dataplane takes.
MOST_TOTAL_NODES = 2**20
# ZooKeeper with the lab's tick of 200 ms grants sessions of 2 to 20 ticks.
SESSION_TIMEOUTS_S = (0.4, 4.0)


def main(argv: list[str]) -> int:
    """Run `maglev0 lab` with what stands behind `lab` on the command line; returns the exit status."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without block characters shows bars of ?
    try:
        arguments = parse(__doc__, argv, "lab")
        if arguments["--end"]:
            return _end(arguments["NAME"])
        return _run(arguments)
    except MaglevError as error:
        sys.stdout.flush()
        sys.stderr.write(f"maglev0: {error}\n")
        return error.exit_status


def _run(arguments: dict[str, Any]) -> int:
    settings = settings_of(arguments)
    prerequisites.check(None if settings.dataplane == "auto" else HashFamily(settings.dataplane))
    work = _keep if arguments["--keep"] else _demonstrate
    return supervisor.run(lambda mine: work(Lab(settings, mine)), keep=arguments["--keep"])


def settings_of(arguments: dict[str, Any]) -> LabSettings:
    """The lab asked for; raises ConfigError naming flag, value and what is allowed."""
    nodes = _whole(arguments, "--nodes", 2, MOST_NODES)
    dataplane = arguments["--dataplane"]
    if dataplane not in {"auto", *HashFamily}:
        raise ConfigError(f"--dataplane={dataplane}: must be auto, clusterip or nftables")
    return LabSettings(
        nodes=nodes,
        total_nodes=_whole(arguments, "--total-nodes", nodes, MOST_TOTAL_NODES),
        dataplane=dataplane,
        session_timeout_s=_seconds(arguments, "--session-timeout"),
        zookeepers=_whole(arguments, "--zookeepers", 1, 3),
    )


def _whole(arguments: dict[str, Any], flag: str, least: int, most: int) -> int:
    text = arguments[flag]
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ConfigError(f"{flag}={text}: must be a whole number from {least} to {most}")
    return int(text)


def _seconds(arguments: dict[str, Any], flag: str) -> float:
    least, most = SESSION_TIMEOUTS_S
    text = arguments[flag]
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not least <= value <= most:
        raise ConfigError(f"{flag}={text}: must be a number of seconds from {least:g} to {most:g}")
    return value


def _demonstrate(cluster: Lab) -> int:
    narrator = Narrator()
    narrator.chapter(
        "maglev0: a cluster in a box, of real kernels, real packets, a real ZooKeeper and real daemons"
    )
    narrator.drawing(cluster.settings)
    cluster.build()
    return Demo(cluster, narrator).tell()


def _keep(cluster: Lab) -> int:
    cluster.build()
    cluster.start()
    sys.stdout.write(guide.text(cluster))
    return 0


def _end(names: list[str]) -> int:
    ending = names or claim.left_over()
    for name in ending:
        if claim.has_owner(name):
            raise LabError(f"lab {name} is still run by its own process: end that one")
        claim.remove(name)
        sys.stdout.write(f"removed lab {name}\n")
    if not ending:
        sys.stdout.write("no lab is left over\n")
    return 0
