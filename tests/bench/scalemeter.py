"""What a cluster costs its ZooKeeper, for `tests.bench.scale`.

By the server's own counters, the bytes on its cable and its processor time.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from maglev0.lab.testbed import namespace
from maglev0.lab.testbed.node import INTERFACE
from maglev0.lab.testbed.process import Process
from maglev0.lab.testbed.zookeeper import ZooKeeperServer
from tests.bench.daemon import cpu_s

ASK_TIMEOUT_S = 10.0  # under a storm of requests an answer takes long
_DEVICES = Path("/proc/thread-self/net/dev")


class Reading(NamedTuple):
    """Counters that only grow, at one time; or the differences of two readings.

    `requests` are packets from clients, pings included; `answers` are packets to them, with the
    events of watches; `writes` are transactions. Bytes are those on the wire, of Ethernet, IP and
    TCP too. `zookeeper_s`, `daemon_s` and `others_s` are seconds of processor time.
    """

    at_s: float
    requests: int
    answers: int
    writes: int
    bytes_in: int
    bytes_out: int
    zookeeper_s: float
    daemon_s: float
    others_s: float

    def since(self, before: Reading) -> Reading:
        """What happened between the two."""
        return Reading._make(now - then for now, then in zip(self, before, strict=True))

    def beyond(self, rest: Reading) -> Reading:
        """What of it would not have happened in as much time at rest.

        `at_s` remains how long it took.
        """
        share = self.at_s / rest.at_s
        extra = (total - share * usual for total, usual in zip(self[1:], rest[1:], strict=True))
        return Reading._make((self.at_s, *extra))


def read(server: ZooKeeperServer, daemon: Process, others: Iterable[Process]) -> Reading:
    """Read all counters now, of a server that is alone, one daemon and some other processes."""
    words = _ask(server)
    bytes_in, bytes_out = _bytes(server)
    return Reading(
        time.monotonic(),
        int(words["Received"]),
        int(words["Sent"]),
        int(words["Zxid"], 16),
        bytes_in,
        bytes_out,
        cpu_s(server.process.pid),
        cpu_s(daemon.pid),
        sum(cpu_s(process.pid) for process in others),
    )


def _ask(server: ZooKeeperServer) -> dict[str, str]:
    """What the server says of itself.

    It travels over the loopback of its namespace, so that the cable does not count it.
    """
    with namespace.inside(server.place.namespace):
        connection = socket.create_connection(
            (server.place.host, server.place.client_port), ASK_TIMEOUT_S
        )
    with connection, connection.makefile("rwb") as stream:
        stream.write(b"srvr")
        stream.flush()
        lines = stream.read().decode().splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def _bytes(server: ZooKeeperServer) -> tuple[int, int]:
    """Received and sent by the server's interface, as proc_net(5) has them."""
    with namespace.inside(server.place.namespace):
        lines = _DEVICES.read_text().splitlines()
    fields = next(
        line.partition(":")[2].split() for line in lines if line.strip().startswith(f"{INTERFACE}:")
    )
    return int(fields[0]), int(fields[8])
