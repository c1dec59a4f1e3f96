from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from maglev0.core.assignment import Assignment, decide
from maglev0.core.transition import Move, Transition
from maglev0.core.view import Member, name_of
from tests.support.members import clusters, viewed

NAMES = ("backend-1", "backend-2", "backend-3")
shares = st.frozensets(st.integers(1, 50))
tables = st.integers(0, 300).flatmap(
    lambda size: st.tuples(
        *[st.lists(st.sampled_from(NAMES), min_size=size, max_size=size).map(tuple)] * 2
    )
)


@given(tables)
@settings(deadline=None)
def test_each_bucket_that_changes_its_owner_is_one_gain_and_one_loss(
    pair: tuple[tuple[str, ...], tuple[str, ...]],
) -> None:
    change = Transition(*pair)
    moved = {
        bucket for bucket, (was, is_now) in enumerate(zip(*pair, strict=True), 1) if was != is_now
    }
    for parts in ([change.gains(name) for name in NAMES], [change.losses(name) for name in NAMES]):
        assert sum(map(len, parts)) == len(moved)
        assert frozenset().union(*parts) == moved


@given(clusters, clusters, st.integers(1, 300))
@settings(deadline=None)
def test_a_members_part_is_what_turns_its_share_into_the_next(
    earlier: list[Member], later: list[Member], total_nodes: int
) -> None:
    before, after = (
        decide(viewed(members), total_nodes, dry_run=False) for members in (earlier, later)
    )
    change = Transition(before.table, after.table)
    for member in (*earlier, *later):
        name = name_of(member.id)
        assert Move(change.gains(name), change.losses(name)) == Move.between(
            before.of(name), after.of(name)
        )


def test_all_of_the_first_table_is_gained() -> None:
    after = Assignment((1, 2), ("backend-2", "backend-1", "backend-2"))
    change = Transition((), after.table)
    assert change.gains("backend-2") == {1, 3}
    assert change.losses("backend-2") == frozenset()
    assert Transition(after.table, ()).losses("backend-1") == {2}


@given(shares, shares)
def test_a_move_turns_what_is_held_into_what_is_wanted(
    held: frozenset[int], wanted: frozenset[int]
) -> None:
    gains, losses = Move.between(held, wanted)
    assert held - losses | gains == wanted
    assert not gains & losses
