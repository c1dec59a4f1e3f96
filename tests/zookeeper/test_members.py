"""Members come, go, die and come back, each under an id that only its own session holds."""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING

import pytest

from maglev0.core.settings import FORMAT
from tests.zookeeper.site import TIMEOUT_S

if TYPE_CHECKING:
    from tests.zookeeper.site import Site

pytestmark = pytest.mark.zookeeper


def test_a_members_znode_says_what_others_need_to_know(site: Site) -> None:
    before_s = time.time()
    (node,) = site.joined(1)
    record = site.record(1)
    assert before_s - 1 < record.pop("start_time") < time.time()
    assert re.fullmatch(r"|\d+\.\d+\.\d+\.\d+", record.pop("address"))
    assert re.fullmatch(r"|([0-9a-f]{2}:){5}[0-9a-f]{2}", record.pop("mac"))
    assert record == {
        "id": 1,
        "host": socket.gethostname(),
        "pid": node.process.pid,
        "dataplane": "nftables",
        "weight": 1,
        "state": "dry-run",
        "session_timeout_s": TIMEOUT_S,
        "format": FORMAT,
    }


def test_a_member_is_told_by_its_session(site: Site) -> None:
    (node,) = site.joined(1)
    assert site.owner(1) == node.session()


def test_every_view_is_known_by_its_parents_stat(site: Site) -> None:
    """A join and a leave each write the parent, so that its version alone tells of both."""
    (first,) = site.joined(1)
    versions = [site.client.get(site.members_path)[1].version]
    second = site.start(2)
    site.agreed(first, second)
    versions.append(site.client.get(site.members_path)[1].version)
    assert versions[1] > versions[0]


def test_who_is_told_to_stop_leaves_at_once(site: Site) -> None:
    nodes = site.joined(1, 2, 3)
    nodes[0].stop()
    site.client.sync(site.members_path)
    assert site.owner(1) == 0
    assert nodes[0].lines[-1] == "backend-1 left"
    site.agreed(*nodes[1:])


def test_a_killed_member_is_gone_when_its_session_expires(site: Site) -> None:
    nodes = site.joined(1, 2, 3)
    nodes[0].process.kill()
    site.wait_gone(1)
    site.agreed(*nodes[1:])


def test_a_killed_daemon_that_starts_again_waits_for_its_dying_session(site: Site) -> None:
    (first,) = site.joined(1)
    killed = site.start(2, timeout_s=5)  # its session must outlast the next one's start
    site.agreed(first, killed)
    before = killed.session()
    killed.process.kill()
    again = site.start(2)
    again.wait_line(
        f"id 2 is held by session {before:#x} \\({re.escape(socket.gethostname())}, pid "
        f"{killed.process.pid}\\): waiting"
    )
    site.agreed(first, again)
    assert site.owner(2) == again.session() != before


def test_an_id_of_a_live_daemon_is_refused_with_its_host_and_pid(site: Site) -> None:
    nodes = site.joined(1, 2)
    session = nodes[1].session()
    second = site.start(2)
    start_s = time.monotonic()
    assert second.ends() == 1
    assert time.monotonic() - start_s > TIMEOUT_S
    assert (
        second.count(
            rf"^maglev0: id 2 is held by another live daemon \({re.escape(socket.gethostname())}, "
            rf"pid {nodes[1].process.pid}\)"
        )
        == 1
    )
    assert second.count("Nodes:") == 0
    assert site.owner(2) == session
    site.agreed(*nodes)


def test_a_persistent_znode_under_the_id_is_named(site: Site) -> None:
    site.client.ensure_path(site.member_path(2))
    node = site.start(2)
    assert node.ends() == 1
    assert (
        node.count(
            rf"^maglev0: {site.member_path(2)} is a persistent znode, which no daemon holds: "
            r"delete it$"
        )
        == 1
    )


def test_a_znode_of_another_session_is_never_taken_for_ours(site: Site) -> None:
    """It appears while we are away, and holds our very own words."""
    other, node = site.joined(1, 2)
    words = site.client.get(site.member_path(2))[0]
    node.freeze()
    site.wait_gone(2)
    site.client.create(site.member_path(2), words, ephemeral=True)
    node.thaw()
    assert node.ends() == 1
    assert node.count(r"^maglev0: id 2 is held by another live daemon") == 1
    assert node.picture is not None
    assert node.picture.held == ""
    assert site.owner(2) == site.client.client_id[0]
    site.client.delete(site.member_path(2))
    site.agreed(other)


def test_an_id_that_another_session_held_for_a_moment_is_taken_when_free(site: Site) -> None:
    first, node = site.joined(1, 2)
    words = site.client.get(site.member_path(2))[0]
    node.freeze()
    site.wait_gone(2)
    site.client.create(site.member_path(2), words, ephemeral=True)
    node.thaw()
    node.wait_line("id 2 is held by session")
    site.client.delete(site.member_path(2))
    site.agreed(first, node)
    node.wait_count("joined as", 2)


@pytest.mark.parametrize(
    "words", [b"", b"{}", b"x" * 900_000, None], ids=["empty", "wrong", "huge", "another member's"]
)
def test_a_member_whose_record_is_overwritten_joins_anew(site: Site, words: bytes | None) -> None:
    nodes = site.joined(1, 2)
    site.client.set(
        site.member_path(2), site.client.get(site.member_path(1))[0] if words is None else words
    )
    nodes[1].wait_count("joined as", 2)
    site.agreed(*nodes)
    assert site.record(2)["pid"] == nodes[1].process.pid


def test_a_member_whose_znode_is_deleted_joins_anew(site: Site) -> None:
    nodes = site.joined(1, 2)
    for joins in (2, 3):
        site.client.delete(site.member_path(2))
        nodes[1].wait_count("joined as", joins)
        site.agreed(*nodes)


def test_members_that_start_at_the_same_instant_found_one_cluster(site: Site) -> None:
    nodes = [site.start(number) for number in (1, 2, 3)]
    site.agreed(*nodes)
    assert sum(node.count("wrote the cluster's settings") for node in nodes) == 1


def test_members_that_start_at_the_same_instant_replace_unreadable_settings_once(
    site: Site,
) -> None:
    site.client.ensure_path(site.members_path)
    site.client.create(site.settings_path, b"{")
    nodes = [site.start(number) for number in (1, 2, 3)]
    site.agreed(*nodes)
    assert sum(node.count("replaced the cluster's settings") for node in nodes) == 1


def test_twenty_members_that_start_at_once_agree(site: Site) -> None:
    nodes = [site.start(number, "--total-nodes=60", timeout_s=4) for number in range(1, 21)]
    shares = site.agreed(*nodes).shares
    assert set(shares.values()) == {3}
