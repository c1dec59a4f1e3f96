"""The settings of a cluster: written once, adopted, defended, replaced only without members."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from maglev0.core.settings import FORMAT, SEED_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.zookeeper.site import Node, Site

pytestmark = pytest.mark.zookeeper

# flag, the setting's name, what the cluster is founded with, what contradicts it
CONTRADICTIONS = [
    ("--total-nodes", "total_nodes", 7, 8),
    ("--hash-mode", "hash_mode", "sourceip-sourceport", "sourceip"),
    ("--hash-seed", "hash_seed", 1234, 4321),
    ("--cluster-mac", "cluster_mac", "03:00:00:00:00:01", "03:00:00:00:00:02"),
    ("--dataplane", "hash_family", "nftables", "clusterip"),
]
each_contradiction = pytest.mark.parametrize(
    ("flag", "setting", "agreed", "other"), CONTRADICTIONS, ids=[case[0] for case in CONTRADICTIONS]
)


def _altered(data: bytes) -> bytes:
    """Valid settings that no member runs with."""
    record = json.loads(data)
    record["hash_seed"] = (record["hash_seed"] + 1) % SEED_LIMIT
    return json.dumps(record).encode()


OTHER_FORMAT = FORMAT + 1
HARMS: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda _data: None,
    "changed": _altered,
    "not JSON": lambda data: data[:-1],
    "empty": lambda _data: b"",
    "huge": lambda _data: b"x" * 900_000,
    "of another format": lambda data: data.replace(
        b'"format": %d' % FORMAT, b'"format": %d' % OTHER_FORMAT
    ),
}
each_harm = pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())


def _do_harm(site: Site, harm: Callable[[bytes], bytes | None]) -> bytes:
    """Delete or overwrite the settings by another hand; what they were."""
    before = site.settings_bytes()
    data = harm(before)
    if data is None:
        site.client.delete(site.settings_path)
    else:
        site.client.set(site.settings_path, data)
    return before


def _complaints(node: Node) -> list[str]:
    return [line for line in node.lines if line.startswith("maglev0: ")]


def test_the_first_node_founds_the_cluster_with_a_random_seed(site: Site) -> None:
    seeds = set()
    for _ in range(2):
        (node,) = site.joined(1)
        seeds.add(site.settings()["hash_seed"])
        node.stop()
        site.delete_tree(site.base)
    assert len(seeds) == 2


def test_the_settings_outlive_the_last_member(site: Site) -> None:
    site.agreed(first := site.start(1, "--total-nodes=7", "--hash-mode=sourceip-sourceport"))
    founded = site.settings_bytes()
    first.stop()
    assert len(site.agreed(site.start(2)).owners) == 7
    assert site.settings_bytes() == founded


def test_a_node_adopts_what_its_flags_leave_out(site: Site) -> None:
    flags = [f"{flag}={agreed}" for flag, _setting, agreed, _other in CONTRADICTIONS]
    first = site.start(1, *flags)
    site.agreed(first)
    founded = site.settings_bytes()
    second = site.start(2, "--hash-seed=1234")
    assert len(site.agreed(first, second).owners) == 7
    assert second.count("7 buckets by sourceip-sourceport, cluster MAC 03:00:00:00:00:01") == 1
    assert site.settings_bytes() == founded


@each_contradiction
def test_a_flag_that_contradicts_the_cluster_stops_the_start(
    site: Site, flag: str, setting: str, agreed: object, other: object
) -> None:
    first = site.start(1, f"{flag}={agreed}")
    site.agreed(first)
    founded = site.settings_bytes()
    second = site.start(2, f"{flag}={other}")
    assert second.ends() == 2
    (complaint,) = _complaints(second)
    told = (
        "… (the cluster has another one"
        if flag == "--hash-seed"
        else f"{other} (the cluster has {agreed}"
    )
    assert f"{flag}={told}" in complaint
    assert site.settings_bytes() == founded
    assert site.settings()[setting] == agreed
    site.agreed(first)


@each_contradiction
def test_with_no_live_member_a_flag_replaces_what_it_contradicts(
    site: Site, flag: str, setting: str, agreed: object, other: object
) -> None:
    first = site.start(1, f"{flag}={agreed}")
    site.agreed(first)
    first.stop()
    second = site.start(2, f"{flag}={other}")
    site.agreed(second)
    assert site.settings()[setting] == other
    assert second.count("replaced the cluster's settings") == 1


def test_an_id_above_the_clusters_total_nodes_stops_the_start(site: Site) -> None:
    first = site.start(1, "--total-nodes=3")
    site.agreed(first)
    second = site.start(4)
    assert second.ends() == 2
    (complaint,) = _complaints(second)
    assert "--my-id=4: allowed are the whole numbers from 1 to 3" in complaint
    site.agreed(first)


def test_a_founder_with_an_id_above_its_own_total_nodes_founds_nothing(site: Site) -> None:
    founder = site.start(6)
    assert founder.ends() == 2
    (complaint,) = _complaints(founder)
    assert "--my-id=6: allowed are the whole numbers from 1 to 5" in complaint
    site.agreed(site.start(1, "--total-nodes=3"))
    assert site.settings()["total_nodes"] == 3


@each_harm
def test_running_members_restore_the_same_settings_again_and_again(
    site: Site, harm: Callable[[bytes], bytes | None]
) -> None:
    nodes = site.joined(1, 2)
    tables = [node.count("Nodes:") for node in nodes]
    for _ in range(3):
        site.wait_settings(_do_harm(site, harm))
    nodes.append(site.start(3))  # a view read after all this
    site.agreed(*nodes)
    assert [node.count("Nodes:") for node in nodes[:2]] == [count + 1 for count in tables]


@each_harm
def test_a_newcomer_without_flags_adopts_what_members_restore_meanwhile(
    site: Site, harm: Callable[[bytes], bytes | None]
) -> None:
    member = site.start(
        1, "--total-nodes=7", timeout_s=10
    )  # its session must outlast the newcomer's start
    site.agreed(member)
    member.freeze()
    founded = _do_harm(site, harm)
    newcomer = site.start(2)
    newcomer.wait_line("connected to ZooKeeper")
    member.thaw()
    assert len(site.agreed(member, newcomer).owners) == 7
    assert site.settings_bytes() == founded


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1]", b"{}", b"\xff\xfe", b"[" * 4000, b"x" * 900_000], ids=range(7)
)
def test_settings_that_nobody_can_read_and_nobody_lives_by_are_replaced(
    site: Site, data: bytes
) -> None:
    site.client.ensure_path(site.members_path)
    site.client.create(site.settings_path, data)
    node = site.start(1)
    site.agreed(node)
    assert site.settings()["total_nodes"] == 5
    assert node.count("replaced the cluster's settings") == 1


def test_settings_that_members_do_not_restore_stop_the_start_with_one_line(site: Site) -> None:
    """With a member of another version, a start neither founds a cluster nor waits for ever."""
    site.client.ensure_path(site.members_path)
    site.client.create(site.settings_path, b'{"format": %d}' % OTHER_FORMAT)
    site.client.create(site.member_path(7), b"{}", ephemeral=True)
    node = site.start(1)
    assert node.ends() == 1  # a start later on may find them restored
    (complaint,) = _complaints(node)
    assert f"format {OTHER_FORMAT}" in complaint
    assert "(7)" in complaint
    assert site.settings_bytes() == b'{"format": %d}' % OTHER_FORMAT


def test_a_node_that_comes_back_does_not_write_over_the_settings_of_another_version(
    site: Site,
) -> None:
    (node,) = site.joined(1)
    node.freeze()
    site.wait_gone(1)
    site.client.set(site.settings_path, b'{"format": %d}' % OTHER_FORMAT)
    site.client.create(site.member_path(7), b"{}", ephemeral=True)
    node.thaw()
    assert node.ends() == 1
    (complaint,) = _complaints(node)
    assert f"format {OTHER_FORMAT}" in complaint
    assert site.settings_bytes() == b'{"format": %d}' % OTHER_FORMAT
