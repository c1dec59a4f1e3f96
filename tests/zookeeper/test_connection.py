"""ZooKeeper servers stop, die, freeze, return: the daemons stay, or let go in time and return."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.zookeeper.site import TIMEOUT_S
from tests.zookeeper.thief import take_session_away

if TYPE_CHECKING:
    from maglev0.lab.testbed.zookeeper import Ensemble
    from tests.zookeeper.site import Site

pytestmark = pytest.mark.zookeeper

PATIENT_S = 10.0  # a session that outlasts an election on a busy machine
TABLE = r"Nodes:"


@pytest.mark.usefixtures("ensemble")
def test_a_lost_server_is_replaced_without_a_change_of_ownership(site: Site) -> None:
    nodes = site.joined(1, 2, timeout_s=PATIENT_S)
    sessions, tables = [node.session() for node in nodes], [node.count(TABLE) for node in nodes]
    site.server_of(nodes[0]).kill()
    nodes[0].wait_count("^connected to ZooKeeper", 2)
    nodes.append(site.start(3, timeout_s=PATIENT_S))
    site.agreed(*nodes)
    assert [site.owner(node.number) for node in nodes[:2]] == sessions
    assert [node.count(TABLE) for node in nodes[:2]] == [count + 1 for count in tables]


def test_servers_restarted_one_by_one_cost_no_session_and_few_lines(
    site: Site, ensemble: Ensemble
) -> None:
    nodes = site.joined(1, 2, 3, timeout_s=PATIENT_S)
    sessions, lines, tables = (
        [node.session() for node in nodes],
        [len(node.lines) for node in nodes],
        [node.count(TABLE) for node in nodes],
    )
    for server in ensemble.servers:
        server.restart()
    for node in nodes:
        node.wait_count("^connected to ZooKeeper", node.count("lost the connection") + 1)
    site.agreed(*nodes)
    site.client.sync(site.base)
    assert [site.owner(node.number) for node in nodes] == sessions
    assert [node.count(TABLE) for node in nodes] == tables
    # A server that stops disconnects its clients, a leader all clients: at worst twice a restart,
    # and perhaps a line with the reason.
    assert all(
        len(node.lines) - before <= 3 * 2 * len(ensemble.servers)
        for node, before in zip(nodes, lines, strict=True)
    )
    nodes.append(site.start(4, timeout_s=PATIENT_S))
    site.agreed(*nodes)


@pytest.mark.parametrize("silence", ["freeze", "kill"])
def test_who_hears_nothing_lets_go_before_its_session_can_expire_and_comes_back(
    site: Site, ensemble: Ensemble, silence: str
) -> None:
    nodes = site.joined(1, 2)
    silent_from = datetime.now(UTC)
    for server in ensemble.servers:
        getattr(server, silence)()
    for node in nodes:
        alone = (
            node.said_at(
                r"lease expired .* after the last ZooKeeper renewal: refusing new connections in "
                r"[23] buckets;"
            )
            - silent_from
        )
        assert alone.total_seconds() < TIMEOUT_S
    for server in ensemble.servers:
        if silence == "kill":
            server.start()
        else:
            server.thaw()
    site.agreed(*nodes)


@pytest.mark.parametrize("silence", ["freeze", "kill"])
def test_without_a_majority_everybody_lets_go_and_comes_back(
    site: Site, ensemble: Ensemble, silence: str
) -> None:
    nodes = site.joined(1, 2, 3)
    lines = [len(node.lines) for node in nodes]
    leader = ensemble.leader()
    stopped = [leader, next(server for server in ensemble.servers if server is not leader)]
    for server in stopped:
        getattr(server, silence)()
    for node in nodes:
        node.wait_line(
            r"lease expired .* after the last ZooKeeper renewal: refusing new connections in [12] "
            r"buckets;"
        )
    for server in stopped:
        if silence == "kill":
            server.start()
        else:
            server.thaw()
    site.agreed(*nodes)
    table = 7
    assert all(
        len(node.lines) - before < 6 * table for node, before in zip(nodes, lines, strict=True)
    )


def test_a_daemon_that_was_stopped_for_long_lets_go_and_joins_anew(site: Site) -> None:
    first, stopped = site.joined(1, 2)
    session = stopped.session()
    stopped.freeze()
    site.wait_gone(2)
    site.agreed(first)
    stopped.thaw()
    stopped.wait_line("backend-2 is no member any more")
    stopped.wait_count("joined as", 2)
    site.agreed(first, stopped)
    assert site.owner(2) == stopped.session() != session


def test_who_loses_its_session_joins_with_another_again_and_again(site: Site) -> None:
    first, robbed = site.joined(1, 2)
    for joins in (2, 3):
        session = robbed.session()
        take_session_away(site, robbed)
        robbed.wait_count("joined as", joins)
        site.agreed(first, robbed)
        assert site.owner(2) == robbed.session() != session


@pytest.mark.parametrize("part", ["members", "base", "everything"])
def test_deleted_parents_come_back_with_the_same_settings_and_later_changes_are_noticed(
    site: Site, part: str
) -> None:
    nodes = site.joined(1, 2)
    founded = site.settings_bytes()
    for joins in (2, 3):
        site.delete_tree(
            {
                "members": site.members_path,
                "base": site.base,
                "everything": f"{site.chroot}/maglev0",
            }[part]
        )
        for node in nodes:
            node.wait_count("joined as", joins)
        site.agreed(*nodes)
        assert site.settings_bytes() == founded
    nodes.append(site.start(3))
    site.agreed(*nodes)
    nodes[0].stop()
    site.agreed(*nodes[1:])
    site.client.delete(site.settings_path)
    site.wait_settings(founded)
