"""What others put where members belong is ignored, told once, and disturbs nobody."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from kazoo.security import make_acl, make_digest_acl

from maglev0.core.settings import FORMAT
from tests.zookeeper.thief import RECORD

if TYPE_CHECKING:
    from tests.zookeeper.site import Site

pytestmark = pytest.mark.zookeeper

IGNORED = "ignored .*/members/"
WRONG = [
    ("id", 3),
    ("id", "4"),
    ("host", 7),
    ("host", "two\nlines"),
    ("pid", True),
    ("pid", -1),
    ("start_time", "today"),
    ("start_time", float("nan")),
    ("address", None),
    ("mac", []),
    ("dataplane", "smoke"),
    ("weight", 1.5),
    ("weight", 10**9),
    ("weight", -1),
    ("state", "asleep"),
    ("state", {}),
    ("session_timeout_s", float("inf")),
    ("session_timeout_s", -1),
    ("format", FORMAT - 1),
    ("format", "1"),
]
NO_RECORDS = [
    b"",
    b"member",
    b"\xff\xfe\x00",
    b"[" * 4000,
    b"[]",
    b"{}",
    b"null",
    b"x" * 900_000,
    json.dumps(RECORD | {"host": "x" * 900_000}).encode(),
]


def _wrong_records(first_id: int) -> dict[int, bytes]:
    """Records with one wrong field each, under ids of their own."""
    return {
        number: json.dumps(RECORD | {"id": number} | {key: value}).encode()
        for number, (key, value) in enumerate(WRONG, first_id)
    }


@pytest.mark.parametrize(
    "garbage",
    [dict(enumerate(NO_RECORDS, 4)), _wrong_records(4)],
    ids=["no records", "wrong fields"],
)
def test_children_that_are_no_members_are_told_once_each_and_count_for_nobody(
    site: Site, garbage: dict[int, bytes]
) -> None:
    nodes = [site.start(number, "--total-nodes=60", timeout_s=4) for number in (1, 2)]
    site.agreed(*nodes)
    for number, data in garbage.items():
        site.client.create(site.member_path(number), data, ephemeral=True)
    for node in nodes:
        node.wait_count(IGNORED, len(garbage))
    nodes.append(site.start(3, timeout_s=4))
    site.agreed(*nodes)
    for node in nodes:
        assert [node.count(f"{IGNORED}{number}: ") for number in garbage] == [1] * len(garbage)


def test_a_record_that_no_session_stands_behind_counts_for_nobody(site: Site) -> None:
    nodes = site.joined(1, 2)
    site.client.create(site.member_path(4), json.dumps(RECORD).encode())
    for node in nodes:
        node.wait_line(f"{IGNORED}4: it is not ephemeral")
    nodes.append(site.start(3))
    site.agreed(*nodes)
    assert [node.count(IGNORED) for node in nodes] == [1, 1, 1]


def test_an_id_beyond_the_clusters_buckets_counts_for_nobody(site: Site) -> None:
    nodes = site.joined(1, 2)
    site.client.create(site.member_path(6), json.dumps(RECORD | {"id": 6}).encode(), ephemeral=True)
    for node in nodes:
        node.wait_line(f"{IGNORED}6: ")
    site.agreed(*nodes)


def test_hundreds_of_foreign_names_are_told_in_few_lines(site: Site) -> None:
    (first,) = site.joined(1)
    names = [
        f"{kind}{number}"
        for kind in ("x", "0", "-", " ", "é", "1.", "y" * 200)
        for number in range(1, 60)
    ]
    for name in names:
        site.client.create_async(f"{site.members_path}/{name}")
    second = site.start(2)
    site.agreed(first, second)
    third = site.start(3)  # two more views, in which nothing about them is new
    site.agreed(first, second, third)
    assert second.count(IGNORED) == 20
    assert second.count(r"ignored \d+ more children") == 1
    assert max(len(line) for line in second.lines if "ignored" in line) < 300


def test_names_that_no_terminal_should_see_are_shown_harmlessly(site: Site) -> None:
    (node,) = site.joined(1)
    site.client.create(f"{site.members_path}/\u202e\u2028x")
    node.wait_line(IGNORED + r"'\\u202e")
    assert node.count(IGNORED) == 1


def test_garbage_below_a_member_keeps_nobody_from_leaving(site: Site) -> None:
    nodes = site.joined(1, 2)
    site.client.ensure_path(f"{site.members_path}/foreign/below/it")
    nodes[0].wait_line(f"{IGNORED}foreign")
    nodes[0].stop()
    site.agreed(nodes[1])


@pytest.mark.parametrize(
    "acl",
    [make_acl("world", "anyone", read=True), make_digest_acl("somebody", "else", all=True)],
    ids=["read only", "no rights"],
)
@pytest.mark.parametrize("place", ["base", "members"])
def test_missing_rights_end_the_start_with_one_line(site: Site, acl: object, place: str) -> None:
    site.client.ensure_path(site.base)
    if place == "base":
        site.client.set_acls(site.base, [acl])
    else:
        site.client.create(site.members_path, acl=[acl])
    node = site.start(1)
    assert node.ends() == 1
    assert node.count("^maglev0: using ZooKeeper: NoAuthError: an ACL keeps this node out") == 1
    assert node.lines[-1].startswith("maglev0: ")


def test_an_ephemeral_znode_where_a_parent_must_be_ends_the_start_with_one_line(site: Site) -> None:
    site.client.ensure_path(site.chroot)
    site.client.create(f"{site.chroot}/maglev0", ephemeral=True)
    node = site.start(1)
    assert node.ends() == 1
    assert node.count("^maglev0: using ZooKeeper: NoChildrenForEphemeralsError") == 1
