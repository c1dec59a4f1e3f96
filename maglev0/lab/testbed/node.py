"""A node of the lab: a namespace with two cables, a responder and the daemon."""

from __future__ import annotations

import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maglev0.lab.errors import LabError
from maglev0.lab.testbed import addresses, libc, namespace, network, node_log
from maglev0.lab.testbed.network import MANAGEMENT, TRAFFIC, Socket
from maglev0.lab.testbed.process import Process, python_module, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from maglev0.lab.testbed.network import Network

INTERFACE = "eth0"
# A drain takes at most 30 s; the rest is for a machine with busy cores.
LEAVE_TIMEOUT_S = 45.0


@dataclass(frozen=True)
class Machine:
    """What a node keeps while its power is off: number, namespace name and log directory."""

    number: int
    namespace: str
    directory: Path

    @property
    def name(self) -> str:
        """The node's name in the logs and in the responder's answers."""
        return f"backend-{self.number}"

    @property
    def traffic_cable(self) -> str:
        """Its port on the traffic switch."""
        return f"node{self.number}"

    @property
    def management_cable(self) -> str:
        """Its port on the management switch."""
        return f"node{self.number}m"

    @property
    def runtime_directory(self) -> Path:
        """The directory that replaces /run/maglev0: the machines of a lab share one /run."""
        return self.directory / f"{self.name}-run"

    @property
    def bpf_file_system(self) -> Path:
        """The directory that replaces /sys/fs/bpf for its daemons."""
        return self.directory / f"{self.name}-bpf"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables for the daemon and the maglev0 commands on this machine."""
        return {
            "RUNTIME_DIRECTORY": str(self.runtime_directory),
            "MAGLEV0_BPFFS": str(self.bpf_file_system),
        }

    @property
    def log(self) -> Path:
        """The log file of its daemons; each run appends to it."""
        return self.directory / f"{self.name}.log"


class LabNode:
    """A machine and its processes; a new one is powered off."""

    def __init__(self, machine: Machine, net: Network, daemon_arguments: Sequence[str]) -> None:
        """Prepare a node; `daemon_arguments` follow `maglev0 --my-id=N` on the command line."""
        self.machine = machine
        self._network = net
        self.daemon_command = python_module(
            "maglev0", f"--my-id={machine.number}", *daemon_arguments
        )
        self._responder: Process | None = None
        self._daemon: Process | None = None

    @property
    def daemon(self) -> Process:
        """The latest daemon; raises LabError before the first start."""
        if self._daemon is None:
            raise LabError(f"{self.machine.name}: its daemon was not started")
        return self._daemon

    @property
    def responder(self) -> Process:
        """The responder process; raises LabError before the first power-on."""
        if self._responder is None:
            raise LabError(f"{self.machine.name}: its power was never on")
        return self._responder

    def power_on(self) -> None:
        """Boot the node: empty kernel state, both cables plugged, responder running, no daemon."""
        machine = self.machine
        shutil.rmtree(machine.runtime_directory, ignore_errors=True)  # /run does not survive a boot
        machine.runtime_directory.mkdir(mode=0o700)
        self._mount_bpf()
        network.make_namespace(machine.namespace)
        traffic = Socket(
            machine.namespace,
            INTERFACE,
            addresses.node_address(machine.number),
            addresses.node_mac(machine.number),
        )
        self._network.plug(machine.traffic_cable, TRAFFIC, traffic)
        managed = Socket(machine.namespace, "eth1", addresses.managed_address(machine.number))
        self._network.plug(machine.management_cable, MANAGEMENT, managed)
        for clients in (addresses.CLIENTS, addresses.PROBERS):
            network.add_route(machine.namespace, clients, INTERFACE, addresses.CLIENT_ROUTER)
        command = python_module(
            "maglev0.lab.traffic.responder",
            f"--name={machine.name}",
            f"--port={addresses.SERVICE_PORT}",
        )
        self._responder = Process(
            f"service of {machine.name}",
            command,
            machine.directory / f"{machine.name}-service.log",
            machine.namespace,
        )
        self._responder.wait_line("^serving$")

    def power_off(self) -> None:
        """Cut the power: remove the cables, then kill all processes, then remove the kernel state.

        The management cable is removed first. A daemon that saw its traffic interface vanish would
        use the management cable to leave in order; a real power cut sends no such message.
        """
        for cable in (self.machine.management_cable, self.machine.traffic_cable):
            self._network.remove(cable)
        namespace.remove(self.machine.namespace)
        if self.machine.bpf_file_system.is_mount():
            libc.unmount(str(self.machine.bpf_file_system))
        self.reap()

    def _mount_bpf(self) -> None:
        """Mount a separate BPF file system, because the lab's machines share one kernel.

        Where the kernel has no BPF file system, the daemons run without XDP.
        """
        place = self.machine.bpf_file_system
        place.mkdir(exist_ok=True)
        with suppress(OSError):
            libc.mount_bpf(str(place))

    def start_daemon(self, *more_arguments: str) -> None:
        """Start the daemon without waiting until it has joined."""
        machine = self.machine
        command = [*self.daemon_command, *more_arguments]
        self._daemon = Process(
            f"daemon of {machine.name}",
            command,
            machine.log,
            machine.namespace,
            machine.environment,
        )

    def stop_daemon(self) -> int:
        """Send SIGTERM, wait for the hand-over and the drain, and return the exit status."""
        return self.daemon.stop(LEAVE_TIMEOUT_S)

    def suspend_daemon(self) -> int:
        """Send SIGUSR1 and return the exit status; the daemon leaves its kernel state."""
        self.daemon.signal(signal.SIGUSR1)
        return self.daemon.wait()

    def kill_daemon(self) -> None:
        """Send SIGKILL to the daemon; the machine keeps running with the daemon's kernel state."""
        self.daemon.kill()

    def pull_cables(self) -> None:
        """Disconnect both cables in the order of `power_off`; all processes keep running."""
        self._network.pull(self.machine.management_cable)
        self._network.pull(self.machine.traffic_cable)

    def push_cables(self) -> None:
        """Connect both cables again."""
        self._network.push(self.machine.traffic_cable)
        self._network.push(self.machine.management_cable)

    @property
    def runs_daemon(self) -> bool:
        """Whether a daemon is running."""
        return self._daemon is not None and not self._daemon.ended

    def log_lines(self) -> list[str]:
        """All log lines of its daemons, oldest run first."""
        return (
            self.machine.log.read_text(errors="replace").splitlines()
            if self.machine.log.exists()
            else []
        )

    def picture(self) -> node_log.Picture | None:
        """The last picture of the cluster that its running daemon logged."""
        return node_log.latest(self.daemon.output())

    def announcements(self) -> int:
        """How often its running daemon has logged its buckets or that it serves again."""
        return node_log.announcements(self.daemon.output())

    def wait_announcements(self, count: int, timeout_s: float) -> None:
        """Return once `announcements` is at least `count`; raises LabError after `timeout_s`."""
        what = f"{self.machine.name} to log that it serves"
        wait_for(
            lambda: True if self.announcements() >= count else None, [self.daemon], timeout_s, what
        )

    def reap(self) -> None:
        """Kill the node's processes and collect their exit statuses."""
        for process in (self._daemon, self._responder):
            if process is not None:
                process.kill()
