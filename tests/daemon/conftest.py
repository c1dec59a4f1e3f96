from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kazoo.client import KazooClient
from kazoo.retry import KazooRetry

from maglev0.lab.zookeeper import Ensemble
from tests.daemon.site import DEADLINE_S, Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def shared_ensemble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensemble]:
    with Ensemble.on_loopback(tmp_path_factory.mktemp("ensemble"), size=3) as servers:
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
    for server in shared_ensemble.servers:
        server.wait_until_serving()


@pytest.fixture
def client(shared_ensemble: Ensemble) -> Iterator[KazooClient]:
    """The test's own eyes and hands in ZooKeeper."""
    retry = KazooRetry(max_tries=-1, delay=0.05, max_delay=0.5)
    zookeeper = KazooClient(shared_ensemble.connect_string, timeout=DEADLINE_S, connection_retry=retry)
    zookeeper.start(timeout=DEADLINE_S)
    yield zookeeper
    zookeeper.stop()
    zookeeper.close()


@pytest.fixture
def site(shared_ensemble: Ensemble, client: KazooClient, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A cluster of its own for each test, in a chroot of several parts that does not exist yet."""
    place = Site(shared_ensemble, client, f"/tests/{tmp_path.name}/{abs(id(request))}", tmp_path)
    yield place
    place.close()
