from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from kazoo.client import KazooClient
from kazoo.retry import KazooRetry

from maglev0.lab.testbed.zookeeper import Ensemble, ServerLocation
from tests.zookeeper.guarded import Guard
from tests.zookeeper.site import DEADLINE_S, Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from maglev0.lab.testbed.zookeeper import ZooKeeperServer


# Below the ports that the kernel gives to outgoing connections (ip_local_port_range): such a
# connection may take the port of a server that is down, and keep it from starting again.
SERVER_PORTS = range(20_000, 32_000)
LONGEST_SESSION_MS = 60_000


class _Ensemble(Ensemble):
    """Three servers that grant long sessions: an election may outlast the default limit of 4 s."""

    def _write_configuration(self, server: ZooKeeperServer) -> None:
        super()._write_configuration(server)
        with (server.directory / "zoo.cfg").open("a") as file:
            file.write(f"maxSessionTimeout={LONGEST_SESSION_MS}\n")


def _places(count: int) -> list[ServerLocation]:
    ports = iter(_free_ports(3 * count))
    return [
        ServerLocation("127.0.0.1", next(ports), next(ports), next(ports)) for _ in range(count)
    ]


def _free_ports(count: int) -> list[int]:
    free: set[int] = set()
    while len(free) < count:
        with (
            suppress(OSError),
            socket.create_server(("127.0.0.1", random.choice(SERVER_PORTS))) as holder,
        ):
            free.add(holder.getsockname()[1])
    return list(free)


@pytest.fixture(scope="session")
def shared_ensemble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    with _Ensemble(tmp_path_factory.mktemp("ensemble"), _places(3)) as servers:
        yield servers


@pytest.fixture
def ensemble(shared_ensemble: Ensemble) -> Iterator[Ensemble]:
    """The three servers; whatever a test did to them, the next finds them well."""
    yield shared_ensemble
    for server in shared_ensemble.servers:
        if server.process.ended:
            server.start()
        else:
            server.thaw()
    shared_ensemble.wait_until_serving()


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    """A server of the module's own, which lets nobody in without a password."""
    client, peer, election, secure = _free_ports(4)
    made = Guard(tmp_path_factory.mktemp("guarded"), (client, peer, election, secure))
    with made.ensemble:
        yield made


@pytest.fixture
def client(shared_ensemble: Ensemble) -> Iterator[KazooClient]:
    """The test's own eyes and hands in ZooKeeper."""
    retry = KazooRetry(max_tries=-1, delay=0.05, max_delay=0.5)
    zookeeper = KazooClient(
        shared_ensemble.connect_string, timeout=DEADLINE_S, connection_retry=retry
    )
    zookeeper.start(timeout=DEADLINE_S)
    yield zookeeper
    zookeeper.stop()
    zookeeper.close()


@pytest.fixture
def site(
    shared_ensemble: Ensemble, client: KazooClient, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Site]:
    """A cluster of its own for each test, in a chroot of several parts that does not exist yet."""
    place = Site(shared_ensemble, client, f"/tests/{tmp_path.name}/{abs(id(request))}", tmp_path)
    yield place
    place.close()
