"""A server of the lab: a namespace with two cables, the small service and the daemon."""

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
# A drain of 30 s at most, and then some for a machine with busy cores.
LEAVE_TIMEOUT_S = 45.0


@dataclass(frozen=True)
class Machine:
    """What stays of a node while its power is off: its number, the name of its namespace and where its logs go."""

    number: int
    namespace: str
    directory: Path

    @property
    def name(self) -> str:
        """What the daemons and the service call it."""
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
        """What /run/maglev0 is to its daemons: the machines of a lab share one /run."""
        return self.directory / f"{self.name}-run"

    @property
    def bpf_file_system(self) -> Path:
        """What /sys/fs/bpf is to its daemons."""
        return self.directory / f"{self.name}-bpf"

    @property
    def environment(self) -> dict[str, str]:
        """What maglev0 on this machine finds in its environment, the daemon and the commands."""
        return {
            "RUNTIME_DIRECTORY": str(self.runtime_directory),
            "MAGLEV0_BPFFS": str(self.bpf_file_system),
        }

    @property
    def log(self) -> Path:
        """The file to which its daemons log, one run after the other."""
        return self.directory / f"{self.name}.log"


class LabNode:
    """A machine and what runs on it; it is made switched off."""

    def __init__(self, machine: Machine, net: Network, daemon_arguments: Sequence[str]) -> None:
        """`daemon_arguments` are those of `maglev0` behind `--my-id`."""
        self.machine = machine
        self._network = net
        self.daemon_command = python_module(
            "maglev0", f"--my-id={machine.number}", *daemon_arguments
        )
        self._responder: Process | None = None
        self._daemon: Process | None = None

    @property
    def daemon(self) -> Process:
        """The daemon last started; raises LabError before the first."""
        if self._daemon is None:
            raise LabError(f"{self.machine.name}: its daemon was not started")
        return self._daemon

    @property
    def responder(self) -> Process:
        """The small service; raises LabError before the node's power was on."""
        if self._responder is None:
            raise LabError(f"{self.machine.name}: its power was never on")
        return self._responder

    def power_on(self) -> None:
        """Boot it: an empty kernel state, both cables plugged, the service running, no daemon yet."""
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
        """Cut its power: cables dead first, then kill -9 of all it runs, then its kernel state is gone, too.

        The management cable goes before all else: a daemon that saw its traffic interface vanish would use it to leave in order, and
        others would know within milliseconds what a power cut does not tell them.
        """
        for cable in (self.machine.management_cable, self.machine.traffic_cable):
            self._network.remove(cable)
        namespace.remove(self.machine.namespace)
        if self.machine.bpf_file_system.is_mount():
            libc.unmount(str(self.machine.bpf_file_system))
        self.reap()

    def _mount_bpf(self) -> None:
        """Mount a BPF file system of its own, for the lab's machines share one kernel; where that has none, daemons do without XDP."""
        place = self.machine.bpf_file_system
        place.mkdir(exist_ok=True)
        with suppress(OSError):
            libc.mount_bpf(str(place))

    def start_daemon(self, *more_arguments: str) -> None:
        """Start the daemon, and do not wait for it."""
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
        """SIGTERM, and wait for the hand-over and the drain; its exit status."""
        return self.daemon.stop(LEAVE_TIMEOUT_S)

    def suspend_daemon(self) -> int:
        """SIGUSR1: the daemon ends and leaves everything as it is, for the next one to go on with; its exit status."""
        self.daemon.signal(signal.SIGUSR1)
        return self.daemon.wait()

    def kill_daemon(self) -> None:
        """SIGKILL to the daemon alone: the machine runs on, its kernel with what the daemon left in it."""
        self.daemon.kill()

    def pull_cables(self) -> None:
        """Pull both plugs at the switches, in the order of `power_off`; everything on the machine runs on."""
        self._network.pull(self.machine.management_cable)
        self._network.pull(self.machine.traffic_cable)

    def push_cables(self) -> None:
        """Put both plugs back."""
        self._network.push(self.machine.traffic_cable)
        self._network.push(self.machine.management_cable)

    @property
    def runs_daemon(self) -> bool:
        """Whether its daemon was started and has not ended."""
        return self._daemon is not None and not self._daemon.ended

    def log_lines(self) -> list[str]:
        """All that its daemons have logged, run after run."""
        return (
            self.machine.log.read_text(errors="replace").splitlines()
            if self.machine.log.exists()
            else []
        )

    def picture(self) -> node_log.Picture | None:
        """What its running daemon last said of the cluster."""
        return node_log.latest(self.daemon.output())

    def announcements(self) -> int:
        """How often its running daemon has said that it serves."""
        return node_log.announcements(self.daemon.output())

    def wait_announcements(self, count: int, timeout_s: float) -> None:
        """Return once its running daemon has said so `count` times."""
        what = f"{self.machine.name} to say that it serves"
        wait_for(
            lambda: True if self.announcements() >= count else None, [self.daemon], timeout_s, what
        )

    def reap(self) -> None:
        """End what runs here and collect its exit status."""
        for process in (self._daemon, self._responder):
            if process is not None:
                process.kill()
