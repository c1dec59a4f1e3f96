from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.core.view import ViewId
from maglev0.protocol.handover import Ack, Phase
from maglev0.protocol.membership import (
    MAX_SMALL_BYTES,
    LeaseRecord,
    Membership,
    decode_ack,
    decode_lease,
)
from tests.simulation.tree import Tree
from tests.support.direct import DirectZooKeeper, put, run
from tests.support.lone_node import MINE, OTHERS, PATHS, Node, living
from tests.support.members import SOMEONE

view_ids = st.builds(
    ViewId,
    st.integers(0, (1 << 63) - 1),
    st.integers(0, (1 << 31) - 1),
    st.integers(-(1 << 31), (1 << 31) - 1),
)
records = st.builds(
    LeaseRecord,
    st.text("0123456789abcdef-/", max_size=60),
    st.integers(1, 1 << 22),
    st.none() | view_ids,
    st.booleans(),
)


@given(records)
def test_what_a_lease_says_is_read_back(record: LeaseRecord) -> None:
    assert decode_lease(record.encode()) == record
    assert len(record.encode()) <= MAX_SMALL_BYTES


@given(view_ids, st.sampled_from(Phase))
def test_what_was_acknowledged_is_read_back(seen: ViewId, stage: Phase) -> None:
    ack = Ack(seen, stage)
    assert decode_ack(ack.encode()) == ack


BAD = [
    b"",
    b"{",
    b"[]",
    b"7",
    b"[" * 1000,
    b"[" * MAX_SMALL_BYTES + b"]",
    b"[1, 2, 3]",
    b"[1, 2, 3, 7]",
    b"[1, 2, 3, true]",
    b"[1, 2, 3.0, 2]",
    b'[1, 2, "3", 2]',
    b"[1, 2, 99999999999, 2]",
    b'{"kernel": "k", "pid": 0, "secure": null, "released": false}',
    b'{"kernel": "k", "pid": 7, "secure": [1, 2], "released": false}',
    b'{"kernel": "k", "pid": 7, "secure": "all", "released": false}',
    b'{"kernel": 7, "pid": 7, "secure": null, "released": false}',
    b'{"pid": 7, "secure": null, "released": false}',
    json.dumps(
        {"kernel": "k" * MAX_SMALL_BYTES, "pid": 7, "secure": None, "released": False}
    ).encode(),
    b"\xff" * 100,
]


@pytest.mark.parametrize("data", BAD, ids=range(len(BAD)))
def test_what_makes_no_sense_says_nothing(data: bytes) -> None:
    assert decode_ack(data) is None
    assert decode_lease(data) is None


@given(st.binary(max_size=200))
def test_no_data_makes_reading_fail(data: bytes) -> None:
    assert decode_ack(data) is None or isinstance(decode_ack(data), Ack)
    assert decode_lease(data) is None or isinstance(decode_lease(data), LeaseRecord)


@pytest.mark.parametrize("word", ["yes", 1, None])
def test_only_a_plain_true_releases(word: object) -> None:
    data = json.dumps({"kernel": "k", "pid": 7, "secure": None, "released": word}).encode()
    assert decode_lease(data) == LeaseRecord("k", 7, None, released=False)


def test_the_reason_for_a_foreign_child_names_the_bound(
    tree: Tree, member: Node, caplog: pytest.LogCaptureFixture
) -> None:
    put(tree, f"{PATHS.members}/what")
    run(Membership(DirectZooKeeper(tree, MINE), PATHS, 1).view(16))
    assert member.tree is tree
    (reason,) = [record.getMessage() for record in caplog.records if "what" in record.getMessage()]
    assert "not a member id, or not among the 4,096 lowest ids" in reason


def test_a_record_that_changed_without_the_parent_gets_its_place_by_a_write_of_the_parent(
    tree: Tree, member: Node
) -> None:
    living(tree, 5)
    member.rounds()
    put(tree, PATHS.member(5), replace(SOMEONE, id=5, weight=7).encode(), OTHERS)
    version = tree.nodes[PATHS.members].stat.version
    member.part.notice(PATHS.member(5))
    member.rounds()
    assert tree.nodes[PATHS.members].stat.version > version
    view = member.part.handover.view
    assert view is not None
    assert {one.id: one.weight for one in view.members} == {1: 1, 5: 7}
