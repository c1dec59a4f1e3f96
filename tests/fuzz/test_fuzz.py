"""No data makes a reader raise anything but ValueError, take long or log what is not printable."""

from __future__ import annotations

import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maglev0.core.view import MAX_CANDIDATES, MAX_ID, Child, candidate_ids
from maglev0.telemetry import node_report
from tests.fuzz import mutations
from tests.fuzz.targets import (
    RECORDS,
    Target,
    almost,
    check,
    check_children,
    check_held,
    children,
    left_session,
)

EXAMPLES = 150
LONGEST_ZNODE = 1 << 20  # ZooKeeper's own bound, jute.maxbuffer
thorough = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module", params=[*(target.name for target in RECORDS), "session file"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    everything = (*RECORDS, left_session(tmp_path_factory.mktemp("session")))
    return next(target for target in everything if target.name == request.param)


def test_a_record_with_any_one_thing_wrong(target: Target) -> None:
    for data in mutations.one_by_one(target.sample):
        check(target, data)


@pytest.mark.parametrize("target", RECORDS, ids=[target.name for target in RECORDS])
def test_a_record_that_is_too_long(target: Target) -> None:
    assert target.decode(target.sample.ljust(target.longest)) is not None
    check(target, target.sample.ljust(target.longest + 1))


@given(data=st.data())
@thorough
def test_records_that_almost_make_sense(target: Target, data: st.DataObject) -> None:
    check(target, data.draw(almost(target)))


@given(data=st.binary(max_size=300))
@thorough
def test_any_bytes(target: Target, data: bytes) -> None:
    check(target, data)


@given(data=st.data())
@settings(thorough, max_examples=30)
def test_what_a_daemon_writes_is_read_by_all_others(target: Target, data: st.DataObject) -> None:
    record = data.draw(target.valid)
    assert len(record) > target.longest or target.encode(target.decode(record)) == record


@given(mutations.held())
@thorough
def test_what_a_kernel_is_said_to_hold(sized: tuple[int, bytes]) -> None:
    check_held(*sized)


@given(children())
@thorough
def test_the_children_of_the_members_parent(sized: tuple[int, list[Child]]) -> None:
    check_children(*sized)


# Long, deep or unfolding data. Beyond its bound it must not be read at all; within the bound,
# reading must cost little.

BOMBS = {
    "lists": b"[" * LONGEST_ZNODE,
    "lists in little": b"[" * 1024,
    "objects": b'{"":' * (LONGEST_ZNODE // 4),
    "lists in a record": b'{"format": 3, "a": %s}' % (b"[" * 60_000 + b"]" * 60_000),
    "empty lists": b"[%s]" % (b"[]," * 40_000 + b"[]"),
    "keys": b"{%s}" % b",".join(b'"%x":0' % number for number in range(12_000)),
    "the same key": b"{%s}" % b",".join([b'"format":1'] * 11_000),
    "digits": b'{"format": %s}' % (b"9" * LONGEST_ZNODE),
    "digits within bounds": b'{"format": %s}' % (b"9" * 130_000),
    "numbers of the most digits": b"[%s]" % b",".join([b"9" * 4300] * 30),
    "a fraction": b'{"read_at": 0.%s}' % (b"7" * 130_000),
    "an exponent": b'{"read_at": 1e%s}' % (b"9" * 130_000),
    "escapes": b'{"format": "%s"}' % (rb"\ud83d\ude00" * 10_000),
    "spaces": b" " * LONGEST_ZNODE,
    "UTF-32": ("[" * 30_000).encode("utf-32"),
    "zeros": b"\0" * LONGEST_ZNODE,
    "compressed zeros": zlib.compress(b"\0" * 50_000_000),
    "compressed twice": zlib.compress(zlib.compress(b"\0" * 50_000_000)),
    "all buckets": zlib.compress(b"\xff" * (MAX_ID // 8)),
}


@pytest.fixture(params=BOMBS)
def bomb(request: pytest.FixtureRequest) -> bytes:
    return BOMBS[request.param]


def test_no_record_takes_long_or_much(target: Target, bomb: bytes) -> None:
    check_cost(lambda: check(target, bomb), units=10, megabytes=8)


@pytest.mark.parametrize("total_nodes", [1, 65_537, MAX_ID])
def test_no_set_of_buckets_takes_long_or_much(total_nodes: int, bomb: bytes) -> None:
    def read() -> None:
        with suppress(ValueError):
            node_report.unpack(total_nodes, bomb)

    check_cost(read, units=20, megabytes=110 * total_nodes / MAX_ID + 1)


def test_no_number_of_children_takes_long() -> None:
    names = [
        *map(str, range(100_000)),
        *(f"0{number}" for number in range(100_000)),
        "9" * 100_000,
        "x" * 100_000,
    ]
    check_cost(lambda: candidate_ids(names, MAX_ID), units=40, megabytes=40)
    ids, foreign = candidate_ids(names, MAX_ID)
    assert (len(ids), len(foreign)) == (MAX_CANDIDATES, len(names) - MAX_CANDIDATES)


def unit_s() -> float:
    """The processor time of a set of a million buckets on this machine: the unit of all costs."""
    return least_s(lambda: frozenset(range(1_000_000)))


def least_s(work: Callable[[], object]) -> float:
    """The least processor time of three runs, which what goes on beside disturbs least."""
    costs_s = []
    for _run in range(3):
        before_s = time.process_time()
        work()
        costs_s.append(time.process_time() - before_s)
    return min(costs_s)


def check_cost(work: Callable[[], object], units: float, megabytes: float) -> None:
    """Check that something takes at most so many times `unit_s` in this run, and so much memory."""
    assert least_s(work) < units * unit_s()
    tracemalloc.start()  # in a second run, for it makes everything slower
    try:
        work()
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6
    finally:
        tracemalloc.stop()
