"""maglev0 doctor: what on this machine, in its network and in ZooKeeper breaks such clusters, why, and what mends it.

Usage:
  maglev0 doctor [--interface=IF] [--my-id=ID] [--session-timeout=S] [--probe-for=S] [--verbose] [options]

Options:
  --interface=<IF>        where the VIP's traffic arrives (left out: as the daemon finds it)
  --my-id=<ID>            the id that this machine has, or is to have
  --session-timeout=<S>   the ZooKeeper session timeout that this machine asks for, or is to
  --probe-for=<S>         seconds of probing the switch, 0.1 to 3600: one that snoops IGMP may deliver for minutes, then stop [default: 1]
  -v, --verbose           tell what is as it should be, too
{options}  -h, --help              show this text

It changes nothing, and may run beside the daemon, before there is one, and on a machine that is to become a node. Without root, and without
ZooKeeper, it says what it had to leave out. What flags leave out, the configuration file says.

The probe is ARP: it asks who has the VIP, and asks every other member for its own address, in ways that make question or answer a frame to
the cluster MAC. Their kernels answer by themselves, and no neighbour table learns more from it than this machine's own address.

A fault breaks the cluster or will; a warning may, or costs something; a note is worth knowing. With --json there is one object in one line:
findings (severity, check, what, why, mend; those of sound checks too, with severity ok), counts by severity, and summary.

Exit status: 0 no fault, 1 a fault, 2 a flag is wrong.
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
    """Run `maglev0 doctor` with what stands behind `doctor` on the command line; returns the exit status."""
    return command.run(__doc__.format(options=cluster_address.OPTIONS), "doctor", arguments, _run)


def _run(arguments: dict[str, Any]) -> int:
    findings = asyncio.run(examination.examine(_asked(arguments)))
    if arguments["--json"]:
        sys.stdout.write(show.as_json(findings) + "\n")
    else:
        show.as_text(findings, verbose=arguments["--verbose"])
    return 1 if finding.counted(findings, Severity.FAULT) else 0


def _asked(arguments: dict[str, Any]) -> DoctorRequest:
    written = _configured(arguments)
    flags = [
        f"{flag}={arguments[flag]}"
        for flag in ("--my-id", "--interface", "--session-timeout")
        if arguments[flag] is not None
    ]
    given = command_line.read(flags)
    return DoctorRequest(
        connection=cluster_address.read(arguments),
        interface=given.interface or (written.interface if written else None),
        my_id=given.my_id if arguments["--my-id"] else (written.my_id if written else None),
        session_timeout_s=given.session_timeout_s
        if arguments["--session-timeout"]
        else (written.session_timeout_s if written else None),
        probe_for_s=_probe_for_s(arguments["--probe-for"]),
        config=written,
    )


def _configured(arguments: dict[str, Any]) -> Config | None:
    """What the configuration file has the daemon of this machine do, if there is one."""
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
            f"--probe-for={printable(text)}: allowed are {least_s:g} to {most_s:g} seconds"
        )
    return value
