from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maglev0.core import failover_plans
from maglev0.core.assignment import decide
from maglev0.core.failover_plans import FailoverPlans
from maglev0.core.view import DRAINING, DRY_RUN, Member, View
from tests.support.members import SOMEONE, viewed

TOTAL_NODES = 251
weights = st.dictionaries(st.integers(1, 12), st.integers(0, 5), min_size=1, max_size=8)
ME = SOMEONE.name


def members(some: dict[int, int]) -> View:
    return viewed(replace(SOMEONE, id=number, weight=weight) for number, weight in some.items())


def alike(count: int) -> dict[int, int]:
    return dict.fromkeys(range(1, count + 1), 1)


def owned(view: View, total_nodes: int = TOTAL_NODES, *, dry_run: bool = False) -> frozenset[int]:
    """What a node without foresight owns."""
    return decide(view, total_nodes, dry_run=dry_run).of(ME)


def at_rest(view: View, total_nodes: int = TOTAL_NODES) -> FailoverPlans:
    """A node that has had all the time it needs since it saw that view."""
    mind = FailoverPlans(ME, total_nodes, dry_run=False)
    if mind.share(view) is None:
        mind.decided(view, decide(view, total_nodes, dry_run=False))
    rest(mind)
    return mind


def rest(mind: FailoverPlans) -> None:
    while mind.step():
        pass


@given(weights, st.data())
@settings(deadline=None)
def test_what_is_foreseen_is_what_the_table_says(some: dict[int, int], data: st.DataObject) -> None:
    """Through any number of changes, each of which may come at any step of the looking ahead."""
    mind = at_rest(members(some))
    for _change in range(4):
        some = data.draw(
            st.one_of(
                weights,
                st.sampled_from(
                    [{k: v for k, v in some.items() if k != gone} for gone in some] or [some]
                ),
            )
        )
        view = members(some)
        share = mind.share(view)
        if share is None:
            share = mind.decided(view, decide(view, TOTAL_NODES, dry_run=False))
        assert share == owned(view)
        for _step in range(data.draw(st.sampled_from([0, 5, 50, 10_000]))):
            mind.step()
        assert mind.ownership in (None, decide(view, TOTAL_NODES, dry_run=False))


@given(weights.filter(lambda some: some.get(SOMEONE.id, 0) > 0), st.data())
@settings(deadline=None)
def test_a_member_that_leaves_a_node_at_rest_costs_it_no_table(
    some: dict[int, int], data: st.DataObject
) -> None:
    mind = at_rest(members(some))
    others = sorted(some.keys() - {SOMEONE.id})
    if not others:
        return
    gone = data.draw(st.sampled_from(others))
    view = members({number: weight for number, weight in some.items() if number != gone})
    assert mind.share(view) == owned(view)


@pytest.mark.parametrize("state", [DRAINING, DRY_RUN])
def test_who_serves_no_more_is_as_good_as_gone(state: str) -> None:
    everyone = members(alike(5))
    mind = at_rest(everyone)
    later = viewed(
        replace(member, state=state) if member.id == 2 else member for member in everyone.members
    )
    assert mind.share(later) == owned(later) != owned(everyone)


def test_who_comes_back_costs_no_table() -> None:
    mind = at_rest(members(alike(5)))
    mind.share(members(without(alike(5), 4)))
    assert mind.share(members(alike(5))) == owned(members(alike(5)))


def without(some: dict[int, int], *gone: int) -> dict[int, int]:
    return {number: weight for number, weight in some.items() if number not in gone}


@pytest.mark.parametrize(
    "later",
    [
        without(alike(5), 4, 5),
        alike(6),
        alike(5) | {5: 2},
        without(alike(5), 5) | {4: 2},
        without(alike(6), 5),
    ],
    ids=[
        "two gone",
        "one more",
        "another weight",
        "one gone, another weight",
        "one in the place of another",
    ],
)
def test_what_nobody_could_foresee_takes_a_table(later: dict[int, int]) -> None:
    assert at_rest(members(alike(5))).share(members(later)) is None


def test_at_first_nothing_is_known_and_nothing_to_do() -> None:
    mind = FailoverPlans(ME, TOTAL_NODES, dry_run=False)
    assert not mind.step()
    assert mind.share(members(alike(5))) is None
    assert mind.ownership is None


def test_who_owns_nothing_knows_that_without_a_table_and_looks_at_nobody() -> None:
    view = members(alike(5) | {SOMEONE.id: 0})
    mind = FailoverPlans(ME, TOTAL_NODES, dry_run=False)
    assert mind.share(view) == frozenset()
    assert mind.ownership is None
    rest(mind)
    assert mind.ownership == decide(view, TOTAL_NODES, dry_run=False)
    assert mind.share(members(alike(5) | {SOMEONE.id: 0, 2: 2})) == frozenset()


def test_a_dry_run_counts_itself() -> None:
    view = viewed(
        replace(SOMEONE, id=number, state=DRY_RUN if number == SOMEONE.id else SOMEONE.state)
        for number in range(1, 6)
    )
    mind = FailoverPlans(ME, TOTAL_NODES, dry_run=True)
    assert (
        mind.decided(view, decide(view, TOTAL_NODES, dry_run=True))
        == owned(view, dry_run=True)
        != frozenset()
    )


def test_the_same_weights_under_another_view_change_nothing() -> None:
    everyone = members(alike(5))
    mind = at_rest(everyone)
    told = mind.ownership
    later = viewed([*everyone.members, Member(**{**vars(SOMEONE), "id": 9, "state": DRY_RUN})])
    assert mind.share(later) == owned(everyone)
    assert mind.ownership is told


def test_who_does_not_fit_takes_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover_plans, "MAX_BUCKETS", 30)
    mind = at_rest(members(alike(5)))
    known = [
        mind._foreseen(members(without(alike(5), gone)).weights(dry_run=False)) is not None
        for gone in (1, 2, 4, 5)
    ]
    assert known == [True, True, False, False]


@pytest.mark.parametrize("count", [3, 30])
def test_what_is_foreseen_fits_into_a_few_hundred_kilobytes(count: int) -> None:
    view = members(alike(count))
    mind = FailoverPlans(ME, 65_537, dry_run=False)
    mind.decided(view, decide(view, 65_537, dry_run=False))
    tracemalloc.start()
    try:
        rest(mind)
        kept_bytes, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 300_000


def test_who_was_there_before_is_remembered_by_weight() -> None:
    mind = at_rest(members({1: 1, 2: 3, 4: 1}))
    assert mind.before == {}
    assert mind.share(members({1: 1, 4: 1})) is not None
    assert mind.before == {1: 1, 2: 3, 4: 1}
