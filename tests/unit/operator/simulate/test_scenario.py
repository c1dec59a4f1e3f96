from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maglev0.core import table
from maglev0.core.view import MAX_ID, MAX_MEMBERS, MAX_WEIGHT, name_of
from maglev0.errors import ConfigError
from maglev0.operator.simulate.scenario import (
    MAX_EVENT_TEXT,
    MAX_EVENTS,
    MAX_SIZES,
    BucketFlow,
    Change,
    ChangeKind,
    Movement,
    Scenario,
    ScenarioStep,
    Weights,
    evaluate,
    fair,
    last_leaves,
    parse_event,
    parse_members,
    parse_size,
    scenario,
)
from tests.support import reference
from tests.support.scenarios import scenarios

FIVE = parse_members("1-5")

LISTED = (
    "must be ids and ranges with weights, such as 1-4:2,7; maglev0 simulate --help has examples"
)


def refused(message: str) -> pytest.RaisesExc[ConfigError]:
    return pytest.raises(ConfigError, match=f"^{re.escape(message)}$")


def steps(size: int, members: str, *events: str) -> list[ScenarioStep]:
    return list(evaluate(scenario([size], parse_members(members), map(parse_event, events))))


# Reading words.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", {1: 1}),
        ("1-4:2,7", {1: 2, 2: 2, 3: 2, 4: 2, 7: 1}),
        ("3-3:0,2:1000", {3: 0, 2: 1000}),
        (f"{MAX_ID}", {MAX_ID: 1}),
    ],
)
def test_members(text: str, expected: Weights) -> None:
    assert parse_members(text) == expected


@pytest.mark.parametrize(
    ("text", "expected", "words"),
    [
        ("+5", Change(ChangeKind.JOIN, {5: 1}, "+5"), "backend-5 joins"),
        ("+5:2", Change(ChangeKind.JOIN, {5: 2}, "+5:2"), "backend-5 joins with weight 2"),
        ("-5", Change(ChangeKind.LEAVE, {5: 0}, "-5"), "backend-5 leaves"),
        ("5:0", Change(ChangeKind.WEIGH, {5: 0}, "5:0"), "backend-5 changes its weight to 0"),
        (
            "+6-8:2,5",
            Change(ChangeKind.JOIN, {5: 1, 6: 2, 7: 2, 8: 2}, "+6-8:2,5"),
            "4 members join",
        ),
        ("-1-3", Change(ChangeKind.LEAVE, {1: 0, 2: 0, 3: 0}, "-1-3"), "3 members leave"),
        (
            "1:3,2:4",
            Change(ChangeKind.WEIGH, {1: 3, 2: 4}, "1:3,2:4"),
            "2 members change their weights",
        ),
    ],
)
def test_events(text: str, expected: Change, words: str) -> None:
    assert parse_event(text) == expected
    assert parse_event(text).words == words


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "",
            LISTED,
        ),
        (
            "1,",
            LISTED,
        ),
        (
            "1=2",
            LISTED,
        ),
        (
            "٣",
            LISTED,
        ),
        ("0", "ids go from 1 to 1048576, and ranges go upwards"),
        ("1048577", "ids go from 1 to 1048576, and ranges go upwards"),
        ("4-2", "ids go from 1 to 1048576, and ranges go upwards"),
        ("1:1001", "weights go from 0 to 1000"),
        ("1-3,2", "backend-2 appears twice"),
        ("1-1048576", "1-1048576 is more than 1024 members"),
    ],
)
def test_what_is_no_list_of_members(text: str, fault: str) -> None:
    with refused(f"--members={text}: {fault}"):
        parse_members(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-5:1", "-5:1: a leave has no weight; -5 leaves, 5:2 changes a weight"),
        ("5", "5: not an event; +5 joins, -5 leaves, 5:2 changes a weight"),
        (
            "\x1b[2J",
            r"'\x1b[2J': " + LISTED,
        ),
        (
            "x" * 99,
            f"{'x' * (MAX_EVENT_TEXT - 1)}…: {LISTED}",
        ),
    ],
)
def test_what_is_no_event(text: str, message: str) -> None:
    with refused(message):
        parse_event(text)


def test_sizes() -> None:
    assert [parse_size(text) for text in ("1", "65537", "1048576")] == [1, 65_537, 1_048_576]
    for text in ("0", "1048577", "99999999", "-1", "1e3", ""):
        with refused(f"--total-nodes={text}: must be a whole number from 1 to 1048576"):
            parse_size(text)


@given(st.text(max_size=30) | st.from_regex(r"[-+]?([0-9]{1,8}[-,:]?){1,4}", fullmatch=True))
@settings(deadline=None)
def test_whatever_is_typed_is_read_or_refused_in_one_printable_line(text: str) -> None:
    for parse in (parse_event, parse_members, parse_size):
        answer = answered(parse, text)
        assert answer.isprintable()
        assert len(answer) < 200


def answered(parse: Callable[[str], object], text: str) -> str:
    try:
        parse(text)
    except ConfigError as error:
        return str(error)
    return ""


# Checking scenarios.


def test_what_happens_is_checked_in_its_order() -> None:
    assert [
        dict(weights)
        for _event, weights in scenario(
            [9], {2: 1, 1: 3}, map(parse_event, ["+3:2", "-1", "3:0"])
        ).views
    ] == [
        {1: 3, 2: 1},
        {1: 3, 2: 1, 3: 2},
        {2: 1, 3: 2},
        {2: 1, 3: 0},
    ]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (["+6", "+6"], "+6: backend-6 is already a member"),
        (["-6"], "-6: backend-6 is not a member then"),
        (["-5", "5:3"], "5:3: backend-5 is not a member then"),
        (["-1-5"], "-1-5: no member has a weight above 0"),
        (["1-5:0"], "1-5:0: no member has a weight above 0"),
        (["+6-1024", "+1025"], "+1025: this makes 1025 members; at most 1024 are allowed"),
        (
            ["+1100"],
            (
                "--total-nodes=1030: backend-1100 cannot take part, because ids go from 1 to"
                " total-nodes"
            ),
        ),
        (["1:2"] * (MAX_EVENTS + 1), "101 events; at most 100 are allowed"),
    ],
)
def test_events_that_cannot_happen(events: list[str], message: str) -> None:
    with refused(message):
        scenario([65_537, 1030], FIVE, map(parse_event, events))


def test_what_no_scenario_can_begin_with() -> None:
    with refused("9 times --total-nodes; at most 8 sizes are allowed"):
        scenario(range(10, 10 + MAX_SIZES + 1), FIVE, ())
    with refused("--members: no member has a weight above 0"):
        scenario([5], {1: 0}, ())
    with refused("--members: this makes 1025 members; at most 1024 are allowed"):
        scenario([65_537], dict.fromkeys(range(1, MAX_MEMBERS + 2), 1), ())
    with refused(
        "--total-nodes=4: backend-5 cannot take part, because ids go from 1 to total-nodes"
    ):
        scenario([5, 4], FIVE, ())


def test_a_size_named_twice_is_worked_out_once() -> None:
    assert scenario([7, 5, 7], FIVE, ()).sizes == (7, 5)


def test_what_is_asked_when_nobody_says_what() -> None:
    assert last_leaves({1: 1, 7: 0, 3: 2}) == (parse_event("-7"),)
    assert last_leaves({1: 0, 2: 1}) == ()


def test_the_time_that_the_largest_takes_is_known() -> None:
    largest = scenario([table.MAX_SIZE], FIVE, [parse_event("1:2")] * MAX_EVENTS)
    assert largest.tables == 101
    assert 100 < largest.takes_s < 300


# Movement.


def test_golden_movement() -> None:
    """As in the Maglev paper: little disruption, and less of it in a larger table."""
    assert [step.movement for step in steps(65_537, "1-5", "-5", "+5")] == [
        Movement(0, 0, 0),
        Movement(13_205, 13_107, 98),
        Movement(13_205, 13_107, 98),
    ]


def test_a_small_table_by_hand() -> None:
    first, second = steps(5, "1-2", "+3:2")
    assert (first.owners, second.owners) == ((2, 1, 2, 1, 1), (1, 3, 2, 3, 1))
    assert first.owners == second.before
    assert first.shares == second.former_shares == {1: 3, 2: 2}
    assert first.balance == (1.2, 0.8)
    assert fair(5, second.weights) == {1: 1.25, 2: 1.25, 3: 2.5}
    assert second.shares == {1: 2, 2: 1, 3: 2}
    assert second.balance == (1.6, 0.8)
    assert second.flows == {
        BucketFlow(1, 1): 1,
        BucketFlow(1, 3): 2,
        BucketFlow(2, 1): 1,
        BucketFlow(2, 2): 1,
    }
    assert second.movement == Movement(moved=3, necessary=2, disruption=1)


@given(scenarios())
@settings(deadline=None)
def test_every_step_has_the_tables_of_its_view_and_of_the_one_before(asked: Scenario) -> None:
    found = list(evaluate(asked))
    assert [(step.size, step.number) for step in found] == [
        (size, number) for size in asked.sizes for number in range(len(asked.events) + 1)
    ]
    for former, step in zip([None, *found], found, strict=False):
        weights = {name_of(member): weight for member, weight in step.weights.items()}
        assert (
            tuple(map(name_of, step.owners))
            == reference.build(step.size, weights)
            == table.build(step.size, weights)
        )
        if step.number:
            assert former is not None
            assert (step.before, step.former) == (former.owners, former.weights)
            assert step.former_shares == former.shares


@given(scenarios())
@settings(deadline=None)
def test_movement_is_what_differs_between_the_two_tables(asked: Scenario) -> None:
    for step in evaluate(asked):
        pairs = list(zip(step.before or step.owners, step.owners, strict=True))
        differing = [(old, new) for old, new in pairs if old != new]
        moved, necessary, disruption = step.movement
        assert moved == len(differing) == necessary + disruption
        changed = {
            member
            for member in {*step.former, *step.weights}
            if step.former.get(member, 0) != step.weights.get(member, 0)
        }
        assert disruption >= sum(not {old, new} & changed for old, new in differing)
        losses = Counter(step.former_shares)
        losses.subtract(step.shares)
        assert moved >= sum(loss for loss in losses.values() if loss > 0), (
            "fewer moves than the shares take"
        )
        assert step.shares == {member: Counter(step.owners)[member] for member in step.weights}
        assert step.balance.smallest <= 1 <= step.balance.largest


@given(st.integers(2, 12), st.integers(0, 11), st.integers(12, 500))
@settings(deadline=None)
def test_what_must_move_is_what_the_leaver_owned_and_the_joiner_gets(
    count: int, who: int, size: int
) -> None:
    one = who % count + 1
    _first, leaves, joins = steps(size, f"1-{count}", f"-{one}", f"+{one}")
    assert leaves.movement.necessary == leaves.former_shares[one]
    assert joins.movement.necessary == joins.shares[one]
    assert leaves.movement == joins.movement


def test_weights_in_the_same_proportions_move_nothing() -> None:
    assert [
        step.movement.moved
        for step in steps(1009, "1-3:2,4:4", "1-3:3,4:6", f"1-3:{MAX_WEIGHT // 2},4:{MAX_WEIGHT}")
    ] == [0, 0, 0]
