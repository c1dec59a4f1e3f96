from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kazoo.client import KazooClient
from kazoo.retry import KazooRetry

from maglev0.lab.testbed.zookeeper import Ensemble
from tests.zookeeper.operator.site import Site
from tests.zookeeper.site import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT_TIMEOUT_S = 4.0  # the most that a server with the lab's tick grants


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    """One ZooKeeper server; a test that stops it starts it again."""
    with Ensemble.on_loopback(tmp_path_factory.mktemp("zookeeper")) as ensemble:
        yield ensemble


@pytest.fixture
def client(server: Ensemble) -> Iterator[KazooClient]:
    zookeeper = KazooClient(
        server.connect_string,
        timeout=CLIENT_TIMEOUT_S,
        connection_retry=KazooRetry(max_tries=-1, delay=0.05, max_delay=0.5),
    )
    zookeeper.start(timeout=DEADLINE_S)
    yield zookeeper
    zookeeper.stop()
    zookeeper.close()


@pytest.fixture
def site(server: Ensemble, client: KazooClient, request: pytest.FixtureRequest) -> Site:
    """A chroot of two parts for the cluster of each test."""
    return Site(server, client, f"/operator/{abs(id(request))}")
