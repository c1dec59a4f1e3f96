from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maglev0.core import table
from maglev0.core.assignment import Assignment, decide
from maglev0.core.view import DRY_RUN, Child, Member, View, ViewId, read_members
from tests.support.members import SOMEONE, clusters, viewed

sizes = st.integers(1, 300)


@given(clusters, sizes, st.booleans(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_every_node_computes_the_same_in_whatever_order_it_read_the_children(
    members: list[Member], total_nodes: int, dry_run: bool, random: Random
) -> None:
    children = [Child(str(member.id), member.encode(), 77, 1) for member in members]
    random.shuffle(children)
    read, _ignored = read_members(children)
    assert decide(View(ViewId(9, 9, 9), read), total_nodes, dry_run=dry_run) == decide(
        viewed(members), total_nodes, dry_run=dry_run
    )


@given(clusters, sizes, st.booleans())
@settings(deadline=None)
def test_each_bucket_has_one_owner_among_those_that_count(
    members: list[Member], total_nodes: int, dry_run: bool
) -> None:
    view = viewed(members)
    ownership = decide(view, total_nodes, dry_run=dry_run)
    names = view.weights(dry_run=dry_run)
    assert [f"backend-{number}" for number in ownership.ids] == list(names)
    shares = [ownership.of(name) for name in names]
    assert sum(len(share) for share in shares) == (total_nodes if names else 0)
    assert frozenset().union(*shares) == frozenset(range(1, total_nodes + 1) if names else ())


@given(clusters, sizes)
@settings(deadline=None)
def test_a_dry_run_never_changes_what_serving_nodes_own(
    members: list[Member], total_nodes: int
) -> None:
    serving = [member for member in members if member.state != DRY_RUN]
    assert decide(viewed(members), total_nodes, dry_run=False) == decide(
        viewed(serving), total_nodes, dry_run=False
    )


def test_golden_ownership() -> None:
    view = viewed(replace(SOMEONE, id=number) for number in (4, 1, 3))
    ownership = decide(view, 5, dry_run=False)
    assert ownership == Assignment(
        (1, 3, 4), ("backend-3", "backend-1", "backend-4", "backend-3", "backend-1")
    )
    assert ownership.of("backend-3") == {1, 4}


@pytest.mark.parametrize(
    "members",
    [(), (replace(SOMEONE, weight=0),), (replace(SOMEONE, state=DRY_RUN),)],
    ids=["none", "drained", "dry run"],
)
def test_without_anybody_that_serves_nobody_owns_anything(members: tuple[Member, ...]) -> None:
    ownership = decide(viewed(members), 5, dry_run=False)
    assert ownership == Assignment((), ())
    assert ownership.of("backend-3") == frozenset()


def test_a_name_that_is_no_member_owns_nothing() -> None:
    assert decide(viewed([SOMEONE]), 5, dry_run=False).of("backend-4") == frozenset()


def test_the_table_is_maglevs() -> None:
    view = viewed(replace(SOMEONE, id=number, weight=number) for number in range(1, 8))
    assert decide(view, 251, dry_run=False).table == table.build(251, view.weights(dry_run=False))
