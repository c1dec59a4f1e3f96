from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.protocol.lease import DRIFT, LEAST_MARGIN_S, REMEMBERED, Dates, Others, Terms, terms

TERMS = Terms(length_s=2.0, margin_s=0.1, interval_s=0.5)
times = st.floats(0, 1e6, allow_nan=False)
zxids = st.integers(1, 1 << 62)


@given(st.integers(1, 3_600_000))
def test_the_margin_covers_the_drift_of_a_whole_lease_and_the_kernels_ticks(lease_ms: int) -> None:
    agreed = terms(lease_ms)
    assert agreed.length_s == lease_ms / 1000
    assert agreed.margin_s >= LEAST_MARGIN_S
    assert agreed.margin_s >= DRIFT * agreed.length_s
    assert agreed.over_s == agreed.length_s + agreed.margin_s


@pytest.mark.parametrize("session_s", [0.5, 1, 2, 4, 30])
def test_a_crash_costs_no_more_than_the_session(session_s: float) -> None:
    """Another's last renewal is dated by one of this node's own, at most an interval later.

    Both, and the margin, fit into a session.
    """
    agreed = terms(int(session_s * 2000 / 3))
    assert agreed.over_s + agreed.interval_s < session_s


@given(st.lists(st.tuples(zxids, times), max_size=REMEMBERED), zxids, times)
def test_a_change_is_dated_by_the_earliest_time_at_which_it_had_certainly_taken_place(
    known: list[tuple[int, float]], zxid: int, read_at: float
) -> None:
    dates = Dates()
    for one in known:
        dates.reached(*one)
    later = [at for reached, at in known if reached >= zxid]
    assert dates.of(zxid, read_at) == (min(later) if later else read_at)


def test_old_dates_are_forgotten() -> None:
    dates = Dates()
    for zxid in range(REMEMBERED + 1):
        dates.reached(zxid, float(zxid))
    assert dates.of(0, 1e9) == 1.0


def test_with_nobody_gone_nothing_is_waited_for() -> None:
    assert Others(TERMS).over_at() == -math.inf


def test_the_last_of_those_who_are_gone_is_waited_for() -> None:
    others = Others(TERMS)
    others.last_changed(1, 10, 5.0)
    others.last_changed(2, 20, 7.0)
    assert others.over_at() == 7.0 + TERMS.over_s
    others.forget(frozenset({2}))
    assert others.over_at() == 5.0 + TERMS.over_s


def test_the_same_change_read_again_later_moves_nothing_and_a_newer_one_does() -> None:
    others = Others(TERMS)
    others.last_changed(1, 10, 5.0)
    others.last_changed(1, 10, 9.0)
    assert others.over_at() == 5.0 + TERMS.over_s
    others.last_changed(1, 11, 9.0)
    assert others.over_at() == 9.0 + TERMS.over_s


def test_who_left_no_znode_counts_from_when_that_was_seen_and_again_whenever_it_is() -> None:
    others = Others(TERMS)
    others.unknown(1, 5.0)
    others.unknown(1, 6.0)
    assert others.over_at() == 6.0 + TERMS.over_s


def test_a_znode_tells_better_than_its_absence_before_or_after() -> None:
    others = Others(TERMS)
    others.unknown(1, 5.0)
    others.last_changed(1, 10, 3.0)
    others.unknown(1, 8.0)
    assert others.over_at() == 3.0 + TERMS.over_s
