"""maglev0 doctor: find what breaks such clusters on this machine, in its network and in ZooKeeper.

Usage:
  maglev0 doctor [--interface=IF] [--my-id=ID] [--session-timeout=S] [--probe-for=S] [-v] [options]

Options:
  --interface=<IF>        where the VIP's traffic arrives (left out: as the daemon finds it)
  --my-id=<ID>            the id that this machine has, or is to have
  --session-timeout=<S>   the ZooKeeper session timeout that this machine requests, or is to request
  --probe-for=<S>         seconds of probing the switch, 0.1 to 3600; a switch that snoops IGMP may
                          deliver for minutes, then stop [default: 1]
  -v, --verbose           print sound checks, too
{options}  -h, --help              show this text

The doctor changes nothing. It may run beside the daemon, before there is a daemon, and on a machine
that is to become a node. Without root or without ZooKeeper it reports which checks it left out.
Values that flags leave out come from the configuration file.

The probe uses ARP: it asks for the VIP, and it asks every other member for its own address, in such
ways that the question or the answer is a frame to the cluster MAC. The kernels of the members
answer by themselves. Neighbour tables learn nothing from it but this machine's own address.

A fault breaks the cluster, or will. A warning may break it, or costs something. A note is worth
knowing. Each finding says what is wrong, why it matters, and what fixes it.

With --json there is one object in one line: findings (severity, check, what, why, fix; sound checks
have the severity ok), counts by severity, and summary.

Exit status: 0 no fault, 1 a fault, 2 wrong flag.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from maglev0.config import command_line
from maglev0.config import file as configfile
from maglev0.config.configuration import Config
from maglev0.core.text import printable
from maglev0.errors import ConfigError
from maglev0.operator import cluster_address, command
from maglev0.operator.doctor import examination, finding, show
from maglev0.operator.doctor.examination import DoctorRequest
from maglev0.operator.doctor.finding import Severity

_PROBE_FOR_S = (0.1, 3600.0)


def main(arguments: list[str]) -> int:
    """Run `maglev0 doctor` with these arguments; returns the exit status."""
    return command.run(__doc__.format(options=cluster_address.OPTIONS), "doctor", arguments, _run)


def _run(arguments: dict[str, Any]) -> int:
    findings = asyncio.run(examination.run_checks(_request(arguments)))
    if arguments["--json"]:
        sys.stdout.write(show.findings_as_json(findings) + "\n")
    else:
        show.print_findings(findings, verbose=arguments["--verbose"])
    return 1 if finding.count(findings, Severity.FAULT) else 0


def _request(arguments: dict[str, Any]) -> DoctorRequest:
    written = _configured(arguments)
    flags = [
        f"{flag}={arguments[flag]}"
        for flag in ("--my-id", "--interface", "--session-timeout")
        if arguments[flag] is not None
    ]
    given = command_line.read(flags)
    return DoctorRequest(
        address=cluster_address.read(arguments),
        interface=given.interface or (written.interface if written else None),
        my_id=given.my_id if arguments["--my-id"] else (written.my_id if written else None),
        session_timeout_s=given.session_timeout_s
        if arguments["--session-timeout"]
        else (written.session_timeout_s if written else None),
        probe_for_s=_probe_for_s(arguments["--probe-for"]),
        config=written,
    )


def _configured(arguments: dict[str, Any]) -> Config | None:
    """The configuration of this machine's daemon, None if there is no file."""
    path = configfile.default_path() if arguments["--config"] is None else arguments["--config"]
    return None if path is None else command_line.read([f"--config={path}"])


def _probe_for_s(text: str) -> float:
    least_s, most_s = _PROBE_FOR_S
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least_s <= value <= most_s:
        raise ConfigError(
            f"--probe-for={printable(text)}: must be {least_s:g} to {most_s:g} seconds"
        )
    return value
