from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maglev0.core.view import (
    ACTIVE,
    DRAINING,
    DRY_RUN,
    FAILING,
    MAX_CANDIDATES,
    MAX_ID,
    MAX_MEMBER_BYTES,
    MAX_MEMBERS,
    Child,
    Ignored,
    Member,
    candidate_ids,
    decode,
    id_of,
    name_of,
    read_members,
)
from tests.support.members import SOMEONE, clusters, member_records, viewed
from tests.support.records import corrupted

sessions = st.integers(1, (1 << 63) - 1)


# One record.


@given(member_records)
def test_what_was_encoded_is_decoded_to_the_same(member: Member) -> None:
    assert decode(str(member.id), member.encode()) == member
    assert len(member.encode()) <= MAX_MEMBER_BYTES


def test_golden_record() -> None:
    # If the data changed between two releases under one format number, old and new nodes would
    # misread each other.
    assert SOMEONE.encode() == (
        b'{"address": "203.0.113.3", "dataplane": "nftables", "format": 3, "host": "web3", '
        b'"id": 3, "mac": "02:00:00:00:00:03", "pid": 4711, '
        b'"session_timeout_s": 4.0, "start_time": 1750000000.0, "state": "active", "weight": 1}'
    )


def test_keys_that_this_version_does_not_know_are_passed_over() -> None:
    assert decode("3", record(colour="blue")) == SOMEONE


def test_whole_seconds_are_seconds() -> None:
    member = decode("3", record(start_time=7, session_timeout_s=4))
    assert (member.start_time, member.session_timeout_s) == (7.0, 4.0)
    assert type(member.session_timeout_s) is float


def record(**changes: Any) -> bytes:
    return json.dumps({**asdict(SOMEONE), **changes}).encode()


def record_without(key: str) -> bytes:
    return json.dumps(
        {name: value for name, value in asdict(SOMEONE).items() if name != key}
    ).encode()


NOT_THIS_FORMAT = (
    "format {}, this version of maglev0 uses format 3: "
    "stop the members of the other version first, or run their version here"
)
NOT_A_FORMAT = "format is not a whole number from 0 to 4294967296"
NOT_A_PID = "pid is not a whole number from 1 to 4194304"
NOT_A_WEIGHT = "weight is not a whole number from 0 to 1000"
NOT_AN_ID = "id is not a whole number from 1 to 1048576"
NOT_A_HOST = "host is not a printable text of at most 255 characters"
NOT_A_STATE = "state is not a printable text of at most 32 characters"
NOT_SECONDS = "session_timeout_s is not a number of seconds"

UNREADABLE = [
    ("nothing", b"", "not JSON"),
    ("a text", b"hello", "not JSON"),
    ("bytes", b"\xff\xfe\x00", "not JSON"),
    ("half of it", SOMEONE.encode()[:40], "not JSON"),
    ("a number", b"3", "not a JSON object"),
    ("a list", b"[]", "not a JSON object"),
    ("a million bytes", b"x" * 1_000_000, "1000000 bytes, at most 4096 are allowed"),
    ("digits", b'{"format": ' + b"9" * 4070 + b"}", NOT_A_FORMAT),
    ("no format", record_without("format"), NOT_A_FORMAT),
    ("format true", record(format=True), NOT_A_FORMAT),
    ("format 1", record(format=1), NOT_THIS_FORMAT.format(1)),
    ("format 4", record(format=4), NOT_THIS_FORMAT.format(4)),
    ("another id", record(id=4), "its record names id 4"),
    ("id 0", record(id=0), NOT_AN_ID),
    ("id true", record(id=True), NOT_AN_ID),
    ("id text", record(id="3"), NOT_AN_ID),
    ("no state", record_without("state"), NOT_A_STATE),
    ("state list", record(state=[ACTIVE]), NOT_A_STATE),
    ("state surrogate", record(state="\ud800"), NOT_A_STATE),
    ("state unknown", record(state="asleep"), "unknown state asleep"),
    ("host number", record(host=3), NOT_A_HOST),
    ("host escape", record(host="\x1b[2J"), NOT_A_HOST),
    ("host two lines", record(host="a\nb"), NOT_A_HOST),
    ("host long", record(host="a" * 256), NOT_A_HOST),
    (
        "no address",
        record_without("address"),
        "address is not a printable text of at most 255 characters",
    ),
    ("MAC null", record(mac=None), "mac is not a printable text of at most 255 characters"),
    ("dataplane xdp", record(dataplane="xdp"), "dataplane is none of clusterip, nftables"),
    ("pid 0", record(pid=0), NOT_A_PID),
    ("pid true", record(pid=True), NOT_A_PID),
    ("pid huge", record(pid=10**1000), NOT_A_PID),
    ("weight -1", record(weight=-1), NOT_A_WEIGHT),
    ("weight 1001", record(weight=1001), NOT_A_WEIGHT),
    ("weight 0.5", record(weight=0.5), NOT_A_WEIGHT),
    ("weight false", record(weight=False), NOT_A_WEIGHT),
    ("timeout NaN", record(session_timeout_s=math.nan), NOT_SECONDS),
    ("timeout Infinity", record(session_timeout_s=math.inf), NOT_SECONDS),
    ("timeout -1", record(session_timeout_s=-1), NOT_SECONDS),
    ("timeout true", record(session_timeout_s=True), NOT_SECONDS),
    ("timeout text", record(session_timeout_s="4"), NOT_SECONDS),
    ("timeout huge", record(session_timeout_s=10**1000), NOT_SECONDS),
    ("no start", record_without("start_time"), "start_time is not a number of seconds"),
]


@pytest.mark.parametrize(
    ("data", "why"), [pytest.param(data, why, id=name) for name, data, why in UNREADABLE]
)
def test_a_record_that_cannot_be_read_is_ignored_and_the_reason_told(data: bytes, why: str) -> None:
    assert read_members([Child("3", data, 77, 5)]) == ((), (Ignored("3", 5, why),))


def test_a_persistent_znode_is_no_member() -> None:
    child = Child("3", SOMEONE.encode(), 0, 5)
    assert read_members([child]) == (
        (),
        (Ignored("3", 5, "it is not ephemeral, so no daemon holds it"),),
    )


@pytest.mark.parametrize("name", ["03", " 3", "+3", "٣", "3_", "", "three", "\ud800", "3" * 5000])
def test_a_name_that_only_resembles_the_id_is_no_second_member(name: str) -> None:
    members, ignored = read_members(
        [Child(name, SOMEONE.encode(), 77, 5), Child("3", SOMEONE.encode(), 78, 6)]
    )
    assert members == (SOMEONE,)
    assert ignored == (Ignored(name, 5, "its record names id 3"),)


# All of them.


@given(clusters, st.randoms(use_true_random=False), sessions)
def test_members_come_sorted_by_id_in_whatever_order_they_were_read(
    members: list[Member], random: Random, session: int
) -> None:
    children = [Child(str(member.id), member.encode(), session, 1) for member in members]
    random.shuffle(children)
    assert read_members(children) == (viewed(members).members, ())


children_of_any_kind = st.builds(
    Child,
    name=st.one_of(
        st.just("3"), st.integers(-5, 1 << 70).map(str), st.text(st.characters(), max_size=10)
    ),
    data=corrupted(asdict(SOMEONE)),
    owner=st.integers(-(1 << 63), (1 << 63) - 1),
    mzxid=st.integers(0, (1 << 63) - 1),
)


@given(st.lists(children_of_any_kind, max_size=5))
@settings(deadline=None, max_examples=500)
def test_whatever_lies_in_the_znodes_each_is_a_member_or_ignored_in_one_printable_line(
    children: list[Child],
) -> None:
    members, ignored = read_members(children)
    assert len(members) + len(ignored) == len(children)
    assert all(decode(str(member.id), member.encode()) == member for member in members)
    assert all(child.reason.isprintable() and 0 < len(child.reason) < 400 for child in ignored)
    assert {(child.name, child.mzxid) for child in ignored} <= {
        (child.name, child.mzxid) for child in children
    }


# Names.


@given(
    st.sets(
        st.one_of(
            st.integers(-3, 30).map(str),
            st.integers(0, 1 << 21).map(str),
            st.text(st.characters(), max_size=5),
        ),
        max_size=40,
    ),
    st.integers(1, MAX_ID),
)
def test_candidates_are_the_plain_ids_in_order_and_the_rest_is_foreign(
    names: set[str], total_nodes: int
) -> None:
    candidates, foreign = candidate_ids(names, total_nodes)
    assert sorted(candidates + foreign) == sorted(names)
    assert [int(name) for name in candidates] == sorted(int(name) for name in candidates)
    assert set(candidates) == {
        name
        for name in names
        if name in {str(int(name)) for name in names if name.isdecimal()}
        and 1 <= int(name) <= total_nodes
    }
    assert foreign == sorted(foreign)


def test_names_that_are_foreign() -> None:
    foreign = ["", "-1", "0", "01", "1.0", "6", "1_0", " 2", "٣", "²", "lock", "\ud800", "9" * 5000]
    assert candidate_ids([*foreign, "5", "1"], 5) == (["1", "5"], sorted(foreign))


def test_beyond_the_largest_cluster_the_lowest_ids_count() -> None:
    names = [str(number) for number in range(MAX_CANDIDATES + 2, 0, -1)]
    candidates, foreign = candidate_ids(names, MAX_ID)
    assert candidates == [str(number) for number in range(1, MAX_CANDIDATES + 1)]
    assert foreign == [str(MAX_CANDIDATES + 1), str(MAX_CANDIDATES + 2)]


def test_beyond_the_largest_cluster_the_lowest_ids_count_and_garbage_takes_no_place() -> None:
    garbage = [Child(str(number), b"{}", 0, number) for number in range(1, 11)]
    present = [
        Child(str(number), replace(SOMEONE, id=number).encode(), 7, number)
        for number in range(11, MAX_MEMBERS + 12)
    ]
    members, ignored = read_members([*present, *garbage])
    assert [member.id for member in members] == list(range(11, MAX_MEMBERS + 11))
    assert (
        Ignored(str(MAX_MEMBERS + 11), 0, f"{MAX_MEMBERS} members of lower ids are there")
        in ignored
    )
    assert len(ignored) == len(garbage) + 1


@given(st.integers(1, MAX_ID))
def test_a_members_name_is_that_of_its_id(member_id: int) -> None:
    assert replace(SOMEONE, id=member_id).name == name_of(member_id) == f"backend-{member_id}"


# Who counts.


@given(clusters)
def test_a_serving_node_counts_those_that_serve(members: list[Member]) -> None:
    expected = {
        member.name: member.weight for member in members if member.state == ACTIVE and member.weight
    }
    assert viewed(members).weights(dry_run=False) == expected


@given(clusters)
def test_a_dry_run_counts_all_that_have_a_weight(members: list[Member]) -> None:
    assert viewed(members).weights(dry_run=True) == {
        member.name: member.weight for member in members if member.weight
    }


@given(clusters, st.data())
def test_where_everybody_who_would_serve_fails_all_of_them_do(
    some: list[Member], data: st.DataObject
) -> None:
    found = [
        replace(
            member, state=data.draw(st.sampled_from([ACTIVE, DRAINING, FAILING, FAILING, DRY_RUN]))
        )
        for member in some
    ]
    view = viewed(found)
    active = {member.name for member in found if member.state == ACTIVE and member.weight}
    failing = {member.name for member in found if member.state == FAILING and member.weight}
    assert view.weights(dry_run=False).keys() == (active or failing)
    assert view.fails_altogether == (not active and bool(failing))


@given(st.integers(1, 1 << 20))
def test_a_name_tells_the_id(member_id: int) -> None:
    assert id_of(name_of(member_id)) == member_id


def test_a_record_that_others_may_change_is_no_members() -> None:
    child = Child(str(SOMEONE.id), SOMEONE.encode(), 99, 1, ours=False)
    found, (ignored,) = read_members([child])
    assert (found, "ACL" in ignored.reason) == ((), True)
