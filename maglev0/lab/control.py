"""Controls a lab that was left running: finds it, and acts on its nodes.

A kept lab has no process of its own. The file ``lab.json`` in the lab's directory holds the
settings it was built with; names, flags, cables and log files follow from them. A command that
changes the lab holds the lab's lock, so that two of them never act at the same time.
"""

from __future__ import annotations

import json
import os
import select
import signal
from contextlib import contextmanager, suppress
from dataclasses import asdict
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from maglev0.lab.errors import LabError
from maglev0.lab.testbed import claim, namespace
from maglev0.lab.testbed.claim import Claim
from maglev0.lab.testbed.cluster import Lab, LabSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maglev0.lab.testbed.node import LabNode

_RECORD = "lab.json"
# A killed process ends within milliseconds; an uninterruptible system call may delay it.
_KILL_TIMEOUT_MS = 5000
# A node joins within a second on an idle machine. It may not join at all, as when its cables are
# pulled: the command then returns and says so.
JOIN_TIMEOUT_S = 10.0
_JOINED = r"(joined|resumed) as backend-"  # resumed: its session had not expired


def save(cluster: Lab) -> None:
    """Write down what `kept_lab` needs: from now on the commands can control this lab."""
    settings = asdict(cluster.settings) | {"vip": str(cluster.settings.vip)}
    unfinished = cluster.claim.directory / f".{_RECORD}"
    unfinished.write_text(json.dumps(settings) + "\n")
    unfinished.rename(cluster.claim.directory / _RECORD)


def kept_labs() -> list[str]:
    """The labs on this machine that were left running."""
    return [name for name in claim.lab_names() if (claim.directory_of(name) / _RECORD).exists()]


def kept_lab(name: str | None) -> Lab:
    """The kept lab called `name`, or the only one where `name` is None; it is not built again.

    Raises LabError where there is no such lab, or where several labs run and none is named.
    """
    running = kept_labs()
    if not running:
        raise LabError("no lab is running: maglev0 lab --keep starts one")
    listed = ", ".join(running)
    if name is None and len(running) > 1:
        raise LabError(f"several labs are running, choose one by --lab=NAME: {listed}")
    chosen = running[0] if name is None else name
    if chosen not in running:
        raise LabError(f"there is no lab {chosen}; running: {listed}")
    return Lab(_settings(chosen), Claim(chosen, claim.directory_of(chosen)))


def _settings(name: str) -> LabSettings:
    path = claim.directory_of(name) / _RECORD
    try:
        found = json.loads(path.read_text())
        more_flags = tuple(found.pop("more_flags"))
        return LabSettings(vip=IPv4Address(found.pop("vip")), more_flags=more_flags, **found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise LabError(
            f"reading {path}: {error}; if another version of maglev0 wrote it, "
            f"remove that lab: maglev0 lab end --lab={name}"
        ) from error


@contextmanager
def locked(cluster: Lab) -> Iterator[None]:
    """Hold the lab's lock while the block runs; waits for another command that holds it."""
    with claim.owned(cluster.claim.name):
        yield


def node_called(cluster: Lab, number: str) -> LabNode:
    """The node with this number, or name backend-N; LabError where there is none."""
    digits = number.removeprefix("backend-")
    found = cluster.nodes.get(int(digits)) if digits.isascii() and digits.isdigit() else None
    if found is None:
        count = len(cluster.nodes)
        raise LabError(f"lab {cluster.claim.name} has no node {number}: nodes are 1 to {count}")
    return found


def asking_node(cluster: Lab) -> LabNode:
    """The node to ask where the operator names none: the first whose daemon runs and is connected.

    Where no node is like that, it is the first that is connected to ZooKeeper, or node 1.
    """
    connected = [
        found
        for found in cluster.nodes.values()
        if not cluster.network.is_pulled(found.machine.management_cable)
    ]
    running = [found for found in connected if daemons(found)]
    return next(iter([*running, *connected, *cluster.nodes.values()]))


def daemons(of: LabNode) -> list[int]:
    """The process ids of the node's daemon: none where it does not run."""
    # Only the interpreter in front of it may differ, as where two installations control one lab.
    beginning = of.daemon_command[1:4]
    return [
        pid
        for pid in namespace.processes(of.machine.namespace)
        if _command_line(pid)[1:4] == beginning
    ]


def _command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def kill_daemon(cluster: Lab, of: LabNode) -> str:
    """Kill the node's daemon by SIGKILL and wait for its end; returns what happened."""
    name, number = of.machine.name, of.machine.number
    found = daemons(of)
    if not found:
        raise LabError(f"{name}: no daemon runs; maglev0 lab start {number} starts it")
    for pid in found:
        _kill(pid)
    session_s = cluster.settings.session_timeout_s
    return (
        f"{name}: daemon killed (process {found[0]}); the other nodes take its buckets "
        f"when its ZooKeeper session has expired ({session_s:g} s)"
    )


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            ending = select.poll()
            ending.register(descriptor, select.POLLIN)
            if not ending.poll(_KILL_TIMEOUT_MS):
                raise LabError(f"killing process {pid}: it does not end")
        finally:
            os.close(descriptor)


def start_daemon(of: LabNode) -> str:
    """Start the node's daemon and wait until it has joined; returns what happened.

    Raises LabError where a daemon runs already, or where the new one ends at once.
    """
    name, number = of.machine.name, of.machine.number
    running = daemons(of)
    if running:
        raise LabError(f"{name}: the daemon runs already (process {running[0]})")
    of.start_daemon()
    try:
        of.daemon.wait_line(_JOINED, JOIN_TIMEOUT_S)
    except LabError:
        if of.daemon.ended:
            raise
        return (
            f"{name}: daemon started (process {of.daemon.pid}), but it has not joined "
            f"after {JOIN_TIMEOUT_S:g} s: see maglev0 lab logs {number}"
        )
    return f"{name}: daemon started (process {of.daemon.pid}); it has joined"


def cables(of: LabNode, *, traffic: bool, management: bool) -> dict[str, str]:
    """The node's cables, each by what it is called; all where none is chosen.

    The management cable comes first: see `LabNode.pull_cables` for the reason.
    """
    machine = of.machine
    found = {"management": machine.management_cable, "traffic": machine.traffic_cable}
    chosen = {"management": management, "traffic": traffic}
    return {name: cable for name, cable in found.items() if chosen[name]} or found


def cut(cluster: Lab, of: LabNode, chosen: dict[str, str]) -> str:
    """Pull cables of the node; returns what happened. Raises LabError where all are pulled."""
    name, number = of.machine.name, of.machine.number
    plugged = {
        kind: cable for kind, cable in chosen.items() if not cluster.network.is_pulled(cable)
    }
    if not plugged:
        raise LabError(f"{name}: already cut; maglev0 lab heal {number} plugs the cables in")
    for cable in plugged.values():
        cluster.network.pull(cable)
    return f"{name}: {_named(plugged)} pulled; maglev0 lab heal {number} undoes it"


def heal(cluster: Lab, of: LabNode) -> str:
    """Plug the node's pulled cables in; returns what happened."""
    name = of.machine.name
    machine = of.machine
    # In the order of `LabNode.push_cables`.
    both = {"traffic": machine.traffic_cable, "management": machine.management_cable}
    pulled = {kind: cable for kind, cable in both.items() if cluster.network.is_pulled(cable)}
    if not pulled:
        return f"{name}: no cable was pulled"
    for cable in pulled.values():
        cluster.network.push(cable)
    return f"{name}: {_named(pulled)} plugged in again"


def _named(cables_by_kind: dict[str, str]) -> str:
    kinds = " and ".join(cables_by_kind)
    return f"{kinds} cable{'s' if len(cables_by_kind) > 1 else ''}"


def logged(nodes: list[LabNode]) -> Iterator[str]:
    """What the daemons of the nodes have logged, in the order of time; several have their names.

    A line without a time belongs to the line before it.
    """
    lines: list[tuple[str, str]] = []
    for found in nodes:
        prefix = f"{found.machine.name}  " if len(nodes) > 1 else ""
        at = ""
        for line in found.log_lines():
            if line[:4].isdigit():
                at = line.partition(" ")[0]
            lines.append((at, prefix + line))
    # All times are of one machine and one format, so text sorts as time does; sorting is stable.
    return (line for _, line in sorted(lines, key=lambda item: item[0]))
