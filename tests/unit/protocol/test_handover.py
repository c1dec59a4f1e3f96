from __future__ import annotations

import math
from dataclasses import replace

import pytest

from maglev0.core.transition import Move
from maglev0.core.view import DRAINING, DRY_RUN, Member, View, ViewId
from maglev0.protocol.handover import TRANSITIONS, Ack, HandOver, Phase, Step
from maglev0.protocol.lease import Terms
from tests.support.members import SOMEONE

TERMS = Terms(length_s=3.0, margin_s=0.5, interval_s=0.75)
OVER_S = TERMS.over_s


def member(number: int, state: str = "active", weight: int = 1) -> Member:
    return replace(SOMEONE, id=number, state=state, weight=weight)


def view(
    changes: int, *members: Member, births: dict[int, int] | None = None, czxid: int = 1
) -> View:
    """A view after so many joins and leaves."""
    born = births or {}
    children = frozenset((str(one.id), born.get(one.id, 100 + one.id)) for one in members)
    return View(ViewId(czxid, changes, changes), members, children)


def node(seen: View, *, held: set[int], mine: set[int]) -> HandOver:
    """Node 1 with `held` in force, at rest under a view, that has just seen another at time 100."""
    handover = HandOver(1, TERMS)
    handover.see(view(1, member(1)), frozenset(held), 50.0)
    handover.adopt(frozenset(held), ViewId(1, 1, 1))
    handover.renewed(ViewId(1, 1, 1), 102.0 - TERMS.length_s)
    handover.see(seen, frozenset(mine), 100.0)
    return handover


def with_a_second() -> HandOver:
    return node(view(2, member(1), member(2)), held={1, 2, 3}, mine={1, 4})


def test_a_new_view_begins_anew_from_what_the_kernel_holds() -> None:
    handover = with_a_second()
    assert handover.stage is Phase.SEEN
    assert handover.move == Move(frozenset({4}), frozenset({2, 3}))
    assert handover.peers == {2}


def test_release_waits_for_all_to_be_prepared_but_not_for_ever() -> None:
    handover = with_a_second()
    assert not handover.may_release(100.0)
    assert not handover.may_release(handover.barrier_at - 0.01)
    assert handover.may_release(handover.barrier_at)
    assert handover.barrier_at - handover.seen_at < TERMS.length_s - TERMS.interval_s
    handover.heard({2: Ack(ViewId(1, 1, 1), Phase.RELEASED)})
    assert not handover.may_release(100.0), "an acknowledgement of another view says nothing"
    handover.heard({2: Ack(ViewId(1, 2, 2), Phase.PREPARED)})
    assert handover.may_release(100.0)


def test_who_has_nothing_to_lose_waits_for_nobody() -> None:
    assert node(view(2, member(1), member(2)), held={1}, mine={1, 4}).may_release(100.0)


def test_who_drains_lets_go_last_but_does_not_wait_for_others_that_do() -> None:
    handover = node(
        view(3, member(1, state=DRAINING), member(2), member(3, state=DRAINING)),
        held={1, 2},
        mine=set(),
    )
    assert handover.awaited() == {2, 3}
    handover.heard(
        {
            2: Ack(ViewId(1, 3, 3), Phase.PREPARED),
            3: Ack(ViewId(1, 3, 3), Phase.PREPARED),
        }
    )
    assert handover.awaited() == {2}
    assert not handover.may_release(100.0)
    handover.heard({2: Ack(ViewId(1, 3, 3), Phase.RELEASED)})
    assert handover.may_release(100.0)
    handover.prepared()
    handover.released()
    assert handover.awaited() == {3}


def test_a_crash_is_not_waited_with_and_stays_one_until_it_is_dealt_with() -> None:
    before = view(2, member(1), member(2), member(3))
    handover = node(before, held={1, 7}, mine={1, 7})
    handover.see(view(3, member(1), member(3)), frozenset({1, 2}), 200.0)
    assert handover.may_release(200.0)
    handover.see(view(4, member(1), member(3), member(4)), frozenset({1}), 201.0)
    assert handover.may_release(201.0)
    handover.prepared()
    handover.released()
    handover.acquired()
    handover.see(view(5, member(1), member(3), member(4), member(5)), frozenset(), 202.0)
    assert not handover.may_release(202.0)


@pytest.mark.parametrize(
    "gone",
    [member(2, state=DRAINING), member(2, weight=0), member(2, state=DRY_RUN)],
    ids=["drained", "weightless", "dry run"],
)
def test_who_owned_nothing_left_nothing_unserved(gone: Member) -> None:
    handover = node(view(2, member(1), gone, member(3)), held={1, 7}, mine={1, 7})
    handover.see(view(3, member(1), member(3)), frozenset({1}), 200.0)
    assert not handover.may_release(200.0)


def released(handover: HandOver) -> HandOver:
    """The node has let go, and a renewal sent at 101 was worth it."""
    handover.prepared()
    handover.released()
    handover.confirmed(handover.view_id, 101.0)
    handover.renewed(ViewId(1, 2, 2), 101.0)
    return handover


def test_nothing_is_acquired_before_all_have_released() -> None:
    handover = released(with_a_second())
    assert handover.held == {1}
    assert handover.may_acquire_at() == math.inf
    handover.heard({2: Ack(ViewId(1, 2, 2), Phase.PREPARED)})
    assert handover.may_acquire_at() == math.inf
    handover.heard({2: Ack(ViewId(1, 2, 2), Phase.RELEASED)})
    assert handover.may_acquire_at() == -math.inf
    assert not handover.is_settled
    handover.acquired()
    assert handover.held == {1, 4}
    assert handover.is_settled


def test_nothing_is_acquired_before_a_renewal_of_its_own_was_worth_it_under_the_view() -> None:
    handover = with_a_second()
    handover.prepared()
    handover.released()
    handover.heard({2: Ack(ViewId(1, 2, 2), Phase.RELEASED)})
    assert handover.may_acquire_at() == math.inf


def test_a_straggler_is_over_when_a_renewal_sent_after_its_lease_still_shows_the_view() -> None:
    handover = released(with_a_second())
    handover.confirmed(handover.view_id, handover.straggling_until - 0.01)
    assert handover.may_acquire_at() == math.inf
    handover.confirmed(ViewId(1, 3, 3), handover.straggling_until)
    assert handover.may_acquire_at() == math.inf, "another view says nothing of this one"
    handover.confirmed(None, handover.straggling_until)
    assert handover.may_acquire_at() == math.inf
    handover.confirmed(handover.view_id, handover.straggling_until)
    assert handover.may_acquire_at() == -math.inf
    assert handover.straggling_until == 100.0 + OVER_S


def test_the_lease_of_who_is_gone_is_waited_for_however_all_others_stand() -> None:
    handover = node(replace(view(1, member(1)), id=ViewId(1, 1, 2)), held={1}, mine={1, 2})
    handover.others.last_changed(9, 77, 98.0)
    handover.prepared()
    handover.released()
    handover.renewed(ViewId(1, 1, 2), 101.0)
    assert handover.may_acquire_at() == 98.0 + OVER_S


def test_a_member_that_left_no_lease_counts_from_when_it_was_missed() -> None:
    handover = with_a_second()
    handover.see(view(3, member(1)), frozenset({1, 2}), 200.0)
    assert handover.others.over_at() == 200.0 + OVER_S


def test_the_same_id_in_another_life_is_another_member() -> None:
    handover = with_a_second()
    again = view(4, member(1), member(2), births={2: 999})
    assert handover.note_gone(view(2, member(1), member(2)), again, 200.0) == (member(2),)


@pytest.mark.parametrize(
    "later",
    [view(4, member(1), member(2)), view(2, member(1), member(2), czxid=9)],
    ids=["somebody came and went", "the parent was created again"],
)
def test_who_came_and_went_unseen_is_waited_for(later: View) -> None:
    handover = with_a_second()
    handover.see(later, frozenset({1}), 200.0)
    assert handover.others.over_at() == 200.0 + OVER_S


def test_a_renewal_is_worth_a_lease_only_under_the_view_that_is_obeyed() -> None:
    handover = with_a_second()
    assert handover.may_promote(ViewId(1, 1, 1), 101.0)
    assert not handover.may_promote(ViewId(1, 2, 2), 101.0)
    assert not handover.may_promote(None, 101.0)
    handover.prepared()
    handover.released()
    assert handover.may_promote(ViewId(1, 2, 2), 101.0)
    assert not handover.may_promote(ViewId(1, 1, 1), 101.0)


def test_who_changed_its_view_while_its_lease_lapsed_lets_go_of_everything() -> None:
    handover = with_a_second()
    handover.prepared()
    handover.released()
    assert not handover.may_promote(ViewId(1, 2, 2), 102.0), (
        "the answer came after the end of the lease"
    )
    assert handover.must_empty(102.0)
    handover.emptied()
    assert handover.stage is Phase.SEEN
    assert not handover.must_empty(102.0)
    assert handover.move.gains == {1, 4}
    handover.prepared()
    handover.released()
    assert handover.may_promote(ViewId(1, 2, 2), 103.0)


def test_a_lease_that_lapses_under_a_secure_view_costs_nothing() -> None:
    handover = released(with_a_second())
    assert not handover.must_empty(1000.0)
    assert handover.may_promote(ViewId(1, 2, 2), 1000.0)


def test_a_lease_still_running_empties_nothing() -> None:
    handover = with_a_second()
    assert not handover.must_empty(101.9)


def test_a_renewal_that_ends_after_the_node_left_is_worth_nothing() -> None:
    handover = with_a_second()
    handover.left()
    handover.renewed(ViewId(1, 1, 1), 101.0)
    assert handover.secure is None
    assert handover.lease_until == -math.inf
    assert handover.peers == frozenset()
    assert not handover.may_promote(None, 0.0)


def test_a_later_start_never_shortens_what_an_earlier_renewal_was_worth() -> None:
    handover = released(with_a_second())
    handover.renewed(ViewId(1, 2, 2), 50.0)
    assert handover.lease_until == 101.0 + TERMS.length_s


@pytest.mark.parametrize(
    ("held", "secure", "stage", "obeys"),
    [
        ({1, 4}, ViewId(1, 2, 2), Phase.ACQUIRED, ViewId(1, 2, 2)),
        ({1}, ViewId(1, 2, 2), Phase.SEEN, ViewId(1, 2, 2)),
        ({1, 2}, ViewId(1, 2, 2), Phase.SEEN, None),
        ({1, 4}, ViewId(1, 1, 1), Phase.SEEN, None),
        ({1, 4}, None, Phase.SEEN, None),
    ],
    ids=["all of it", "a part", "more than its own", "of another view", "unknown"],
)
def test_what_an_earlier_daemon_left_is_adopted_where_it_was_secure(
    held: set[int], secure: ViewId | None, stage: Phase, obeys: ViewId | None
) -> None:
    handover = HandOver(1, TERMS)
    handover.see(view(2, member(1), member(2)), frozenset({1, 4}), 100.0)
    handover.adopt(frozenset(held), secure)
    assert (handover.stage, handover.obeys, handover.held) == (stage, obeys, frozenset(held))
    assert handover.must_empty(100.0) is (obeys is None)


def test_nodes_in_a_dry_run_count_for_each_other_only() -> None:
    seen = view(2, member(1), member(2, state=DRY_RUN), member(3))
    assert node(seen, held=set(), mine=set()).peers == {3}
    dry = HandOver(2, TERMS)
    dry.see(seen, frozenset(), 100.0)
    assert dry.peers == {1, 3}


def test_without_a_view_there_is_nobody() -> None:
    handover = HandOver(1, TERMS)
    assert handover.peers == frozenset()
    assert handover.view_id is None
    assert handover.may_acquire_at() == math.inf


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("step", Step)
def test_each_step_of_the_state_machine(phase: Phase, step: Step) -> None:
    """Written out once more, so that no transition changes unseen."""
    expected = {
        Step.BEGIN: dict.fromkeys(Phase, Phase.SEEN),
        Step.STAGE: {Phase.SEEN: Phase.PREPARED},
        Step.RELEASE: {Phase.PREPARED: Phase.RELEASED},
        Step.ACQUIRE: {Phase.RELEASED: Phase.ACQUIRED},
        Step.ADOPT: {Phase.SEEN: Phase.ACQUIRED},
    }
    assert TRANSITIONS.get((phase, step)) == expected[step].get(phase)


def test_a_step_in_the_wrong_phase_is_an_error() -> None:
    with pytest.raises(KeyError):
        with_a_second().acquired()
