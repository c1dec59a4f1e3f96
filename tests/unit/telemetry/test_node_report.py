from __future__ import annotations

import json
import zlib
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.core.settings import FORMAT
from maglev0.core.table import MAX_SIZE
from maglev0.core.view import MAX_ID, MAX_MEMBERS, MAX_START_TIME_S, MAX_WEIGHT, ViewId
from maglev0.telemetry.node_report import (
    MAX_HELD_BYTES,
    MAX_LEASE_S,
    MAX_PAUSE_S,
    MAX_REASONS,
    MAX_REPORT_BYTES,
    STALE_S,
    NodeReport,
    decode,
    digest,
    pack,
    unpack,
)
from tests.support.records import corrupted, outcome_of
from tests.support.reports import PLAIN

texts = st.text(st.characters(codec="utf-8"), max_size=8).filter(str.isprintable)
times = st.floats(0, MAX_START_TIME_S)
views = st.none() | st.builds(
    ViewId,
    st.integers(0, (1 << 63) - 1),
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.integers(0, 1 << 30),
)
all_reports = st.builds(
    NodeReport,
    read_at=times,
    view=views,
    view_at=times,
    held=st.integers(0, MAX_SIZE),
    digest=texts,
    lease_left_s=st.floats(-MAX_LEASE_S, MAX_LEASE_S),
    kept=st.integers(0, MAX_SIZE),
    flows=st.none() | st.integers(0, 1 << 32),
    counted_under=views,
    pause_s=st.floats(0, MAX_PAUSE_S),
    able=st.booleans(),
    problems=st.lists(texts, max_size=3).map(tuple),
    xdp=texts,
    version=texts,
    before=st.dictionaries(st.integers(1, MAX_ID), st.integers(0, MAX_WEIGHT), max_size=5),
    format=st.just(FORMAT),
)


@given(all_reports)
def test_an_encoded_report_decodes_to_the_same(report: NodeReport) -> None:
    assert decode(report.encode()) == report


@pytest.mark.parametrize(
    ("later", "is_news"),
    [
        (PLAIN, False),
        (replace(PLAIN, read_at=9.0, view_at=8.5, lease_left_s=0.1), False),
        (replace(PLAIN, flows=7), False),
        (replace(PLAIN, pause_s=7.0), False),
        (replace(PLAIN, counted_under=PLAIN.view), True),
        (replace(PLAIN, lease_left_s=0.0), True),
        (replace(PLAIN, digest="cd"), True),
        (replace(PLAIN, view=ViewId(1, 2, 4)), True),
        (replace(PLAIN, problems=("tcp:80 does not answer",)), True),
        (replace(PLAIN, kept=1), True),
    ],
)
def test_a_report_is_news_if_more_than_time_passed(later: NodeReport, is_news: bool) -> None:
    assert later.is_news_after(PLAIN) is is_news
    assert PLAIN.is_news_after(later) is is_news


def test_connections_that_end_are_news_while_they_are_waited_for() -> None:
    waiting = replace(PLAIN, kept=2, flows=7)
    assert replace(waiting, flows=6).is_news_after(waiting)


def test_a_report_is_stale_when_its_member_has_missed_the_pace_that_it_announced() -> None:
    assert not PLAIN.is_stale(PLAIN.read_at + STALE_S)
    assert PLAIN.is_stale(PLAIN.read_at + STALE_S + 1)
    slow = replace(PLAIN, pause_s=100.0)
    assert not slow.is_stale(slow.read_at + 200)
    assert slow.is_stale(slow.read_at + 201)


def test_the_largest_report_is_one() -> None:
    before = {MAX_ID - number: MAX_WEIGHT for number in range(MAX_MEMBERS)}
    report = replace(PLAIN, problems=("\U00020000" * 255,) * MAX_REASONS, before=before)
    assert decode(report.encode()) == report


@given(corrupted(json.loads(PLAIN.encode())))
def test_no_data_does_more_than_be_refused(data: bytes) -> None:
    outcome = outcome_of(decode, data)
    assert isinstance(outcome, NodeReport) or str(outcome).isprintable()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"able": 1}, "able"),
        ({"read_at": True}, "read_at"),
        ({"read_at": "1"}, "read_at"),
        ({"view_at": float("nan")}, "view_at"),
        ({"view_at": float("inf")}, "view_at"),
        ({"view": [1, 2]}, "view"),
        ({"view": [1, 2, 3.0]}, "view"),
        ({"view": [1, 2, 1 << 63]}, "view"),
        ({"view": {}}, "view"),
        ({"held": MAX_SIZE + 1}, "held"),
        ({"digest": "a" * 33}, "digest"),
        ({"lease_left_s": 2 * MAX_LEASE_S}, "lease_left_s"),
        ({"flows": -1}, "flows"),
        ({"counted_under": [1, 2]}, "counted_under"),
        ({"pause_s": None}, "pause_s"),
        ({"pause_s": 2 * MAX_PAUSE_S}, "pause_s"),
        ({"problems": "no list"}, "problems"),
        ({"problems": ["a"] * (MAX_REASONS + 1)}, "problems"),
        ({"problems": ["\x1b[31m"]}, "problem"),
        ({"problems": [1]}, "problem"),
        ({"before": []}, "before"),
        ({"before": {str(number): 1 for number in range(1, MAX_MEMBERS + 2)}}, "before"),
        ({"before": {"0": 1}}, "before"),
        ({"before": {"07": 1}}, "before"),
        ({"before": {"x": 1}}, "before"),
        ({"before": {"٧": 1}}, "before"),
        ({"before": {str(MAX_ID + 1): 1}}, "before"),
        ({"before": {"1": MAX_WEIGHT + 1}}, "1 is not"),
        ({"format": FORMAT + 1}, "format"),
    ],
    ids=str,
)
def test_a_wrong_report_is_refused_by_name(wrong: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        decode(json.dumps({**json.loads(PLAIN.encode()), **wrong}).encode())


def test_a_report_too_long_to_be_one_is_not_parsed() -> None:
    with pytest.raises(ValueError, match="at most"):
        decode(b" " * (MAX_REPORT_BYTES + 1))


@st.composite
def held(draw: st.DrawFn) -> tuple[int, frozenset[int]]:
    total_nodes = draw(st.integers(1, 70) | st.just(65537))
    return total_nodes, frozenset(draw(st.lists(st.integers(1, total_nodes), max_size=80)))


@given(held(), held())
def test_packed_buckets_are_unpacked_and_different_sets_differ(
    one: tuple[int, frozenset[int]], other: tuple[int, frozenset[int]]
) -> None:
    total_nodes, buckets = one
    assert unpack(total_nodes, pack(total_nodes, buckets)) == buckets
    others = frozenset(bucket for bucket in other[1] if bucket <= total_nodes)
    assert (digest(total_nodes, buckets) == digest(total_nodes, others)) == (buckets == others)


def test_the_set_that_packs_worst_fits() -> None:
    buckets = frozenset(Random(7).sample(range(1, MAX_SIZE + 1), MAX_SIZE // 2))
    data = pack(MAX_SIZE, buckets)
    assert MAX_SIZE // 8 < len(data) <= MAX_HELD_BYTES
    assert unpack(MAX_SIZE, data) == buckets


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "2 bytes"),
        (b"nonsense", "compressed"),
        (zlib.compress(b"\x01"), "2 bytes"),
        (zlib.compress(b"\x01\x02\x03"), "2 bytes"),
        (zlib.compress(bytes(1 << 20)), "2 bytes"),
        (zlib.compress(b"\x00\x20"), "beyond 13"),
        (b"x" * (MAX_HELD_BYTES + 1), "at most"),
    ],
    ids=range(7),
)
def test_data_that_is_no_set_of_buckets_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        unpack(13, data)


@given(
    st.binary(max_size=100)
    | st.binary(max_size=200).map(zlib.compress)
    | st.tuples(held(), st.integers(0, 40)).map(lambda cut: pack(*cut[0])[: cut[1]])
)
def test_no_data_unfolds_to_more_than_there_is(data: bytes) -> None:
    outcome = outcome_of(partial(unpack, 64), data)
    assert (
        str(outcome).isprintable()
        if isinstance(outcome, ValueError)
        else outcome <= frozenset(range(1, 65))
    )
