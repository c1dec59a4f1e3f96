"""Starts the client of `client.py` in its namespace, sends it orders and reads its results."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from maglev0.lab.errors import LabError
from maglev0.lab.testbed import addresses
from maglev0.lab.testbed.process import Process, python_module, wait_for
from maglev0.lab.traffic import client, held
from maglev0.lab.traffic.client import ORDERS, TALLY, TURNS
from maglev0.lab.traffic.held import Turn
from maglev0.lab.traffic.tally import Tally

if TYPE_CHECKING:
    from ipaddress import IPv4Address
    from pathlib import Path

    from maglev0.lab.testbed.cluster import Lab

ANSWER_S = 10.0  # a guard for a machine whose cores are all busy
ASK_S = 0.1  # no event reports the state; each poll takes a fraction of a millisecond
END_S = 30.0  # a guard: saving a million requests takes less than a second


@dataclass(frozen=True)
class Pace:
    """The client's load.

    `rate` (fresh ports) and `held_rate` (fixed ports) are requests a second of all sources
    together; `connections` is the number of TCP connections held.
    """

    sources: tuple[int, ...] = tuple(range(64))
    rate: float = 600.0
    held_rate: float = 320.0
    connections: int = 200

    def arguments(self) -> list[str]:
        """The load as flags of the client."""
        sources = ",".join(map(str, self.sources))
        return [
            f"--sources={sources}",
            f"--rate={self.rate}",
            f"--held-rate={self.held_rate}",
            f"--connections={self.connections}",
        ]


class ClientResult(NamedTuple):
    """All results of the client, and the processor time that it used."""

    tally: Tally
    turns: list[Turn]
    cpu_s: float


class Clients:
    """The running client. As a context manager it kills the client at the end of the block."""

    def __init__(self, cluster: Lab, pace: Pace) -> None:
        self._pace = pace
        self._directory: Path = cluster.claim.directory / "client"
        self._directory.mkdir(exist_ok=True)
        vip: IPv4Address = cluster.settings.vip
        command = python_module(
            client.__name__,
            f"--directory={self._directory}",
            f"--vip={vip}",
            f"--port={addresses.SERVICE_PORT}",
            *pace.arguments(),
        )
        self._process = Process("client", command, self._directory / "log", cluster.client)
        self._process.wait_line("^asking$")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    def retire(self, node: int) -> int:
        """Have the client close its connections at a node; returns how many it closed."""
        return int(self._order("retire", node))

    def held(self) -> dict[int, int]:
        """The number of established connections by node; see `Held.by_node`."""
        return {int(node): count for node, count in self._status()["held"].items()}

    def wait_held(self, timeout_s: float = ANSWER_S) -> None:
        """Return once all connections are established; raises LabError after `timeout_s`."""
        wait_for(
            lambda: None if self.held().get(0) else True,
            [self._process],
            timeout_s,
            "all connections to be established",
            ASK_S,
        )

    def wait_served(self, timeout_s: float) -> None:
        """Return once all recent requests are answered; raises LabError after `timeout_s`."""
        wait_for(
            lambda: None if self._status()["lost"] else True,
            [self._process],
            timeout_s,
            "all requests to be answered",
            ASK_S,
        )

    def stop(self) -> ClientResult:
        """Stop the client and read its results.

        Raises LabError where the kernel dropped frames, because the counts are then wrong.
        """
        status = self._status()
        self._process.stop(END_S)
        if status["dropped"]:
            raise LabError(
                f"counting answers: the kernel dropped {status['dropped']} frames before the client"
                " read them; ask at a lower rate"
            )
        return ClientResult(
            Tally.read(self._directory / TALLY), held.read(self._directory / TURNS), status["cpu_s"]
        )

    def _status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._order("status")
        return answer

    def _order(self, *order: str | int) -> Any:
        back = self._directory / "back"
        back.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            asking.bind(str(back))
            asking.settimeout(ANSWER_S)
            try:
                asking.sendto(json.dumps(order).encode(), str(self._directory / ORDERS))
                return json.loads(asking.recv(65536))
            except OSError as error:
                raise LabError(
                    f"sending order {order[0]} to the client: {error};"
                    f" see {self._directory / 'log'}"
                ) from error
