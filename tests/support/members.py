"""Members and views for tests."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from maglev0.core.service import HashFamily
from maglev0.core.settings import FORMAT
from maglev0.core.view import (
    ACTIVE,
    DRY_RUN,
    MAX_ID,
    MAX_SESSION_TIMEOUT_S,
    MAX_START_TIME_S,
    MAX_WEIGHT,
    Member,
    View,
    ViewId,
)

SOMEONE = Member(
    id=3,
    host="web3",
    pid=4711,
    start_time=1.75e9,
    address="203.0.113.3",
    mac="02:00:00:00:00:03",
    dataplane=HashFamily.NFTABLES,
    weight=1,
    state=ACTIVE,
    session_timeout_s=4.0,
)
texts = st.text(st.characters(codec="utf-8"), max_size=40).filter(str.isprintable)
member_records = st.builds(
    Member,
    id=st.integers(1, MAX_ID),
    host=texts,
    pid=st.integers(1, 1 << 22),
    start_time=st.floats(0, MAX_START_TIME_S),
    address=texts,
    mac=texts,
    dataplane=st.sampled_from(HashFamily),
    weight=st.integers(0, MAX_WEIGHT),
    state=st.sampled_from([ACTIVE, DRY_RUN]),
    session_timeout_s=st.floats(0, MAX_SESSION_TIMEOUT_S),
    format=st.just(FORMAT),
)
clusters = st.lists(member_records, max_size=12, unique_by=lambda member: member.id)


def viewed(members: Iterable[Member]) -> View:
    return View(ViewId(1, 2, 3), tuple(sorted(members, key=lambda member: member.id)))
