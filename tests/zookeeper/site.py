"""Daemons in dry run against a real ensemble: processes, told apart by id, read by their logs."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError, ZookeeperError

from maglev0.lab.testbed.node_log import Picture, latest
from maglev0.lab.testbed.process import Process, python_module, wait_for
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maglev0.lab.testbed.zookeeper import Ensemble, ZooKeeperServer

DEADLINE_S = PATIENCE_S
TIMEOUT_S = 1.0  # the daemons' session timeout
VIP = "198.51.100.1"
ASK_INTERVAL_S = 0.01  # where nothing tells when: how often to look


class Node:
    """One daemon's process, or the process in which the same daemon runs again."""

    def __init__(self, number: int, process: Process) -> None:
        self.number = number
        self.process = process

    @property
    def picture(self) -> Picture | None:
        """The last table that it printed, with what it holds."""
        return latest(self.process.output())

    @property
    def lines(self) -> list[str]:
        """What it printed so far, without the times."""
        return [re.sub(r"^\d{4}-\S+ ", "", line) for line in self.process.output().splitlines()]

    def count(self, pattern: str) -> int:
        """How many of its lines match."""
        return len([line for line in self.lines if re.search(pattern, line)])

    def wait_line(self, pattern: str, timeout_s: float = DEADLINE_S) -> re.Match[str]:
        """The first match in its output."""
        return self.process.wait_line(pattern, timeout_s)

    def said_at(self, pattern: str) -> datetime:
        """The time that stands before the first line that matches, which it waits for."""
        return datetime.fromisoformat(self.wait_line(rf"^(\S+) .*{pattern}")[1])

    def wait_count(self, pattern: str, count: int) -> None:
        """Return once it has printed that many matching lines."""
        wait_for(
            lambda: True if self.count(pattern) >= count else None,
            [self.process],
            DEADLINE_S,
            f"{count} lines {pattern!r}",
        )

    def session(self) -> int:
        """The session with which it joined last."""
        self.wait_line(r"joined as .*session")
        return int(
            re.findall(r"joined as \S+ session (0x[0-9a-f]+)", self.process.output())[-1], 16
        )

    def ends(self, within_s: float = DEADLINE_S) -> int:
        """Its exit status."""
        return self.process.wait(within_s)

    def stop(self) -> None:
        """Send SIGTERM; the daemon must end with 0."""
        assert self.process.stop(DEADLINE_S) == 0, self.process.output()

    def freeze(self) -> None:
        """Stop the process where it stands."""
        self.process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.signal(signal.SIGCONT)


class Site:
    """One VIP's cluster under its own chroot, and a client that reads and disturbs it."""

    def __init__(
        self, ensemble: Ensemble, client: KazooClient, chroot: str, directory: Path
    ) -> None:
        self.ensemble = ensemble
        self.client = client
        self.chroot = chroot
        self.base = f"{chroot}/maglev0/{VIP}"
        self.settings_path = f"{self.base}/settings"
        self.members_path = f"{self.base}/members"
        self.nodes: list[Node] = []
        self._directory = directory

    def start(
        self,
        number: int,
        *flags: str,
        timeout_s: float = TIMEOUT_S,
        zk: str | None = None,
        prefix: Sequence[str] = (),
    ) -> Node:
        """Start the daemon `number` without waiting; `prefix` is a command to run it under."""
        hosts = self.ensemble.connect_string if zk is None else zk
        arguments = [
            f"--zk={hosts}{self.chroot}",
            f"--session-timeout={timeout_s}",
            "--dry-run",
            f"--my-id={number}",
        ]
        command = [*prefix, *python_module("maglev0", *arguments, *flags)]
        log = self._directory / f"{len(self.nodes)}-backend-{number}.log"
        node = Node(number, Process(f"backend-{number}", command, log))
        self.nodes.append(node)
        return node

    def joined(self, *numbers: int, timeout_s: float = TIMEOUT_S) -> list[Node]:
        """Start daemons of these numbers and wait until they agree."""
        nodes = [self.start(number, timeout_s=timeout_s) for number in numbers]
        self.agreed(*nodes)
        return nodes

    def agreed(self, *nodes: Node) -> Picture:
        """Wait until each of these nodes has logged exactly them as members, and equal owners."""
        ids = tuple(sorted(node.number for node in nodes))
        what = f"{[node.number for node in nodes]} to agree on {ids}"
        return wait_for(
            lambda: _common([node.picture for node in nodes], nodes, ids),
            [node.process for node in nodes],
            DEADLINE_S,
            what,
        )

    def member_path(self, number: int) -> str:
        """The znode of a member."""
        return f"{self.members_path}/{number}"

    def _catch_up(self) -> None:
        """Have the client's server know at least what the leader knew: a follower may be behind."""
        self.client.sync(self.members_path)

    def record(self, number: int) -> dict[str, Any]:
        """What a member says of itself."""
        self._catch_up()
        value = json.loads(self.client.get(self.member_path(number))[0])
        assert isinstance(value, dict)
        return value

    def owner(self, number: int) -> int:
        """The session behind a member's znode; 0 where there is none."""
        self._catch_up()
        stat = self.client.exists(self.member_path(number))
        return 0 if stat is None else int(stat.ephemeralOwner)

    def settings(self) -> dict[str, Any]:
        """The settings in ZooKeeper."""
        value = json.loads(self.settings_bytes())
        assert isinstance(value, dict)
        return value

    def settings_bytes(self) -> bytes:
        """The settings in ZooKeeper, as they lie there."""
        self._catch_up()
        return bytes(self.client.get(self.settings_path)[0])

    def wait_settings(self, data: bytes) -> None:
        """Return once the settings are these bytes."""
        self.wait_znode(self.settings_path, lambda found: found == data)

    def wait_gone(self, number: int, timeout_s: float = DEADLINE_S) -> None:
        """Return once a member's znode is gone."""
        self.wait_znode(self.member_path(number), lambda found: found is None, timeout_s)

    def wait_znode(self, path: str, wanted: Any, timeout_s: float = DEADLINE_S) -> None:
        """Return once `wanted` of the znode's data (None: there is none) is true."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            changed = threading.Event()
            stat = self.client.exists(path, watch=lambda _event, changed=changed: changed.set())
            data = None
            with suppress(NoNodeError):
                data = None if stat is None else self.client.get(path)[0]
            if wanted(data):
                return
            if not changed.wait(max(0.0, deadline_s - time.monotonic())):
                raise AssertionError(f"{path} still holds {data!r}")

    def delete_tree(self, path: str) -> None:
        """Delete a znode and all below it in one transaction, so that no node sees half of it."""
        while True:  # ends: who restores it waits for us longer than we need
            transaction = self.client.transaction()
            for znode in reversed(self._tree(path)):
                transaction.delete(znode)
            answers = transaction.commit()
            if not any(isinstance(answer, ZookeeperError) for answer in answers):
                return

    def _tree(self, path: str) -> list[str]:
        return [
            path,
            *(
                znode
                for name in self.client.get_children(path)
                for znode in self._tree(f"{path}/{name}")
            ),
        ]

    def server_of(self, node: Node) -> ZooKeeperServer:
        """The server that a daemon is connected to."""
        ports = _remote_ports(node.process.pid)
        return next(server for server in self.ensemble.servers if server.place.client_port in ports)

    def close(self) -> None:
        """End all daemons, and see that none of them ever printed a traceback."""
        for node in self.nodes:
            with suppress(ProcessLookupError):
                node.process.kill()
        for node in self.nodes:
            assert "Traceback" not in node.process.log.read_text(errors="replace"), (
                node.process.output()
            )


def _common(
    pictures: list[Picture | None], nodes: Sequence[Node], ids: tuple[int, ...]
) -> Picture | None:
    first = pictures[0]
    if first is None or first.members != ids:
        return None
    for node, picture in zip(nodes, pictures, strict=True):
        if picture is None or (picture.members, picture.owners, picture.shares) != (
            first.members,
            first.owners,
            first.shares,
        ):
            return None
        name = f"backend-{node.number}"
        if picture.owners and picture.held != ",".join(
            str(number) for number in sorted(picture.owners) if picture.owners[number] == name
        ):
            return None
    return first


def _remote_ports(pid: int) -> set[int]:
    """The remote ports of a process's established IPv4 connections (proc(5), /proc/net/tcp)."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").rstrip("]"))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {
        int(row[2].partition(":")[2], 16) for row in rows if row[3] == "01" and row[9] in inodes
    }


def eventually(condition: Any, what: str, timeout_s: float = DEADLINE_S) -> None:
    """Look again and again, where no event tells when."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(ASK_INTERVAL_S)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])
