"""A real ensemble on loopback."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from kazoo.client import KazooClient

from maglev0.lab.testbed.zookeeper import Ensemble
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from maglev0.lab.testbed.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.zookeeper


@pytest.fixture
def ensemble(tmp_path: Path) -> Iterator[Ensemble]:
    with Ensemble.on_loopback(tmp_path, size=3) as servers:
        yield servers


def test_one_server_stands_alone(tmp_path: Path) -> None:
    with Ensemble.on_loopback(tmp_path) as single:
        assert single.leader().mode() == "standalone"
        process = single.servers[0].process
    assert process.ended


def test_three_servers_survive_a_restart_of_their_leader(ensemble: Ensemble) -> None:
    client = KazooClient(ensemble.connect_string, timeout=4.0)
    client.start(timeout=PATIENCE_S)
    try:
        client.create("/kept", b"value")
        leader = ensemble.leader()
        leader.restart()
        ensemble.wait_until_serving()  # one of the others may still be looking for the new leader
        assert {server.mode() for server in ensemble.servers} == {"leader", "follower"}
        assert client.retry(client.get, "/kept")[0] == b"value"
    finally:
        client.stop()
        client.close()


def test_without_a_majority_nobody_serves_and_with_it_they_do_again(ensemble: Ensemble) -> None:
    survivor, *others = ensemble.servers
    for server in others:
        server.kill()
    assert _falls_silent(survivor)
    for server in others:
        server.start()
    ensemble.wait_until_serving()
    assert sorted(str(server.mode()) for server in ensemble.servers) == [
        "follower",
        "follower",
        "leader",
    ]


def _falls_silent(server: ZooKeeperServer) -> bool:
    """Wait until it stops serving; there is no event for it, so it is asked repeatedly."""
    deadline_s = time.monotonic() + PATIENCE_S
    while server.mode() is not None and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return server.mode() is None
