"""Clusters in a real ZooKeeper, and operators' commands as processes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kazoo.client import KazooClient

from maglev0.core.view import ViewId
from maglev0.lab.testbed.process import python_module
from maglev0.protocol.handover import Ack, Phase
from maglev0.telemetry import node_report
from tests.support.clusters import PATHS, Cluster
from tests.zookeeper.site import DEADLINE_S

if TYPE_CHECKING:
    from maglev0.lab.testbed.zookeeper import Ensemble

VIP = "198.51.100.1"


class Site:
    """The chroot of one test."""

    def __init__(self, server: Ensemble, client: KazooClient, chroot: str) -> None:
        self.server = server
        self.client = client
        self.chroot = chroot
        self.zk = f"--zk={server.connect_string}{chroot}"

    def path(self, path: str) -> str:
        """Where a path of the model lies in this chroot."""
        return self.chroot + path.removeprefix("/lab")

    def publish(self, cluster: Cluster, acl: list[Any] | None = None) -> None:
        """Write all znodes of a cluster as the model has them, with fresh reports.

        `acl` is the ACL of all of them, None is open to everyone.
        """
        nodes = {
            path: node for path, node in cluster.tree.nodes.items() if path.startswith("/lab/")
        }
        self.client.ensure_path(self.chroot)
        for path in sorted(nodes):
            self.client.create(
                self.path(path), nodes[path].data, acl, ephemeral=bool(nodes[path].stat.owner)
            )
        stat = self.client.exists(self.path(PATHS.members))
        view = ViewId(stat.czxid, stat.cversion, stat.version)
        for path in nodes:
            if path.startswith(PATHS.acks + "/"):
                self.client.set(self.path(path), Ack(view, Phase.RELEASED).encode())
            elif path.startswith(PATHS.reports + "/"):
                self.report(
                    int(path.rpartition("/")[2]),
                    view=view,
                    read_at=time.time(),
                    view_at=time.time() - 100,
                )

    def report(self, member: int, **changes: Any) -> None:
        """Change a member's report; the rest of it stays."""
        path = self.path(PATHS.report(member))
        self.client.set(
            path, replace(node_report.decode(self.client.get(path)[0]), **changes).encode()
        )

    def hold(self, member: int, buckets: frozenset[int], total_nodes: int = 16) -> None:
        """Make a member report that it has these buckets in force."""
        self.client.set(self.path(PATHS.holding(member)), node_report.pack(total_nodes, buckets))
        self.report(member, held=len(buckets), digest=node_report.digest(total_nodes, buckets))

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with pipes."""
        return subprocess.run(
            command(*arguments),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
            env={**os.environ, **environment},
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command with pipes."""
        return subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


class Terminal:
    """A command in a terminal of 100 columns; `output` is all that it wrote."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.output = ""
        mine, its = pty.openpty()
        size = {"COLUMNS": "100", "LINES": "40", "TERM": "xterm-256color", **environment}
        variables = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        self._process = subprocess.Popen(
            command(*arguments),
            stdin=its,
            stdout=its,
            stderr=its,
            env={**variables, **size},
            start_new_session=True,
        )
        os.close(its)
        self._mine = mine

    def read_until(self, text: str) -> None:
        """Read until the command has written this."""
        begin = len(self.output)
        while text not in self.output[begin:]:
            assert self._read(), f"ended without {text!r}: {self.output}"

    def ends(self) -> int:
        """Wait for the end; returns the exit status, and `output` is complete."""
        while self._read():
            pass
        os.close(self._mine)
        return self._process.wait(DEADLINE_S)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def _read(self) -> bool:
        with suppress(OSError):  # EIO: no process has it open
            data = os.read(self._mine, 65536)
            self.output += data.decode()
            return bool(data)
        return False


def command(*arguments: str) -> list[str]:
    """The command line of this checkout's maglev0."""
    return python_module("maglev0", *arguments)
