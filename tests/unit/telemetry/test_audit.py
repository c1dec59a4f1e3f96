from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from maglev0.telemetry.audit import Alarms, Findings, differing, judge
from maglev0.telemetry.node_report import digest
from tests.support.reports import PLAIN

SIZE = 12
SOUND = Findings()
holdings = st.dictionaries(st.integers(1, 5), st.frozensets(st.integers(1, SIZE)))


@given(holdings)
def test_every_overlap_and_hole_is_found_and_no_other(held: dict[int, frozenset[int]]) -> None:
    found = judge(SIZE, held, unknown=(9,))
    owners = {
        bucket: tuple(sorted(member for member in held if bucket in held[member]))
        for bucket in range(1, SIZE + 1)
    }
    assert found.overlaps == {
        bucket: members for bucket, members in owners.items() if len(members) > 1
    }
    assert found.holes == {bucket for bucket, members in owners.items() if not members}
    assert found.unknown == (9,)
    assert found.is_sound == all(len(members) == 1 for members in owners.values())


def test_members_whose_report_names_other_buckets_than_their_share_differ() -> None:
    shares = {1: frozenset({1, 2}), 2: frozenset({3}), 3: frozenset({4})}
    reports = {
        1: replace(PLAIN, digest=digest(4, {1, 2})),
        2: replace(PLAIN, digest=digest(4, {3, 4})),
    }
    assert differing(shares, reports, 4) == (2,)


def test_a_fault_is_an_alarm_once_when_it_lasts() -> None:
    alarms, overlap = Alarms(5.0), Findings(overlaps={7: (1, 2), 8: (1, 2)})
    assert alarms.note(SOUND, 0) == []
    assert alarms.standing_s(0) == 0
    assert alarms.note(overlap, 1) == []
    assert alarms.note(overlap, 5) == []
    assert alarms.standing_s(5) == 4
    assert alarms.note(overlap, 6) == [
        (
            "overlap: 2 buckets are in force on several nodes, such as 7 on backend-1, backend-2",
            True,
        )
    ]
    assert alarms.note(overlap, 7) == []
    assert alarms.note(SOUND, 8) == [("no overlaps any more", False)]
    assert alarms.note(SOUND, 9) == []


def test_both_kinds_of_faults_have_alarms_of_their_own() -> None:
    alarms = Alarms(0.0)
    assert alarms.note(Findings(holes=frozenset({3})), 1) == [
        ("hole: 1 bucket is in force on no node, such as 3", True)
    ]
    news = alarms.note(Findings(overlaps={7: (1, 2)}), 2)
    assert news == [
        (
            "overlap: 1 bucket is in force on several nodes, such as 7 on backend-1, backend-2",
            True,
        ),
        ("no holes any more", False),
    ]


def test_hand_overs_that_follow_each_other_are_no_alarm() -> None:
    alarms = Alarms(5.0)
    assert [
        alarms.note(Findings(holes=frozenset({second // 4 + 1})), second) for second in range(40)
    ] == [[]] * 40
    assert alarms.note(Findings(holes=frozenset({10, 11})), 40) == []
    assert alarms.note(Findings(holes=frozenset({10, 11})), 41) == [
        ("hole: 1 bucket is in force on no node, such as 10", True)
    ]
