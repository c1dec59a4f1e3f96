from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from maglev0.core import table
from maglev0.core.service import HashFamily, HashMode
from maglev0.core.settings import Settings
from maglev0.core.view import ACTIVE, DRAINING, DRY_RUN, Member, View, ViewId
from maglev0.operator.explain import bucket_owner
from maglev0.operator.explain.bucket_owner import BucketOwner, Party
from maglev0.protocol.handover import Ack, Phase
from maglev0.telemetry.audit import Findings
from maglev0.telemetry.node_report import NodeReport
from maglev0.telemetry.observer import Observation
from tests.support.members import SOMEONE

SIZE = 16
NOW, FORMER = ViewId(1, 5, 5), ViewId(1, 4, 4)
SETTINGS = Settings(SIZE, HashMode.SOURCE_IP, 7, HashFamily.NFTABLES, "03:bf:c6:33:64:01", 2000)
ONE, TWO, THREE = (
    replace(SOMEONE, id=number, host=f"s{number}", state=ACTIVE) for number in (1, 2, 3)
)
REPORT = NodeReport(
    1.0,
    NOW,
    1.0,
    5,
    "",
    1.5,
    0,
    0,
    NOW,
    1.0,
    able=True,
    problems=(),
    xdp="off",
    version="1",
    before={},
)


def built(*members: int) -> tuple[str, ...]:
    return table.build(SIZE, {f"backend-{member}": 1 for member in members})


def observed(
    *members: Member,
    acks: Mapping[int, Ack] | None = None,
    reports: Mapping[int, NodeReport] | None = None,
    findings: Findings | None = None,
) -> Observation:
    """An observation; by default all members have finished the hand-over."""
    view = View(NOW, members)
    serving = [member.id for member in members if member.state == ACTIVE]
    return Observation(
        settings=SETTINGS,
        view=view,
        ignored=(),
        owners=built(*serving) if serving else ("",) * SIZE,
        acks={member.id: Ack(NOW, Phase.RELEASED) for member in members} if acks is None else acks,
        leases={},
        orders={},
        reports={} if reports is None else reports,
        findings=findings or Findings(),
    )


def moved(former: tuple[str, ...], present: tuple[str, ...]) -> int:
    """A bucket whose owner changed."""
    return next(
        bucket for bucket in range(1, SIZE + 1) if former[bucket - 1] != present[bucket - 1]
    )


GAINED = moved(built(1, 2), built(1, 2, 3))  # by member 3
LOST = moved(built(1, 2, 3), built(1, 2))
STAYED = next(
    bucket for bucket in range(1, SIZE + 1) if built(1, 2)[bucket - 1] == built(1, 2, 3)[bucket - 1]
)


def joined(**more: object) -> Observation:
    """Member 3 has joined."""
    seen = observed(ONE, TWO, THREE, reports={3: replace(REPORT, before={1: 1, 2: 1})})
    return replace(seen, **more)  # type: ignore[arg-type]


def test_a_bucket_that_moved_has_its_new_and_its_former_owner() -> None:
    found = bucket_owner.of(joined(), GAINED)
    former = built(1, 2)[GAINED - 1]
    assert found.owner == Party("backend-3", "s3", ACTIVE)
    assert found.before == Party(former, f"s{former[-1]}", ACTIVE)
    assert (found.move, found.in_force, found.knows_before) == ("", "", True)
    assert found.report == replace(REPORT, before={1: 1, 2: 1})


def test_a_bucket_that_stayed_has_the_same_owner_and_waits_for_nothing() -> None:
    found = bucket_owner.of(joined(acks={}), STAYED)
    assert found.owner == found.before != None  # noqa: E711  both, and somebody
    assert found.move == ""


def test_the_former_owner_may_be_gone() -> None:
    seen = observed(ONE, TWO, reports={2: replace(REPORT, before={1: 1, 2: 1, 3: 1})})
    assert bucket_owner.of(seen, LOST).before == Party("backend-3", "", "left")


def test_before_the_first_view_there_was_nobody() -> None:
    seen = observed(ONE, reports={1: REPORT})
    first = replace(seen, view=replace(seen.view, id=ViewId(1, 1, 1)))
    assert (bucket_owner.of(first, 1).before, bucket_owner.of(first, 1).knows_before) == (
        None,
        True,
    )


def test_a_cluster_of_nobody_has_no_owner() -> None:
    assert bucket_owner.of(observed(), 1) == BucketOwner(
        1, None, None, knows_before=False, move="", in_force="", report=None
    )


def test_who_joined_or_was_started_again_does_not_know_what_was_before() -> None:
    for seen in (observed(ONE, reports={1: REPORT}), joined(reports={3: REPORT})):
        assert not bucket_owner.of(seen, GAINED).knows_before
    seen = joined(reports={2: replace(REPORT, before={1: 1, 2: 1}), 3: REPORT})
    assert bucket_owner.of(seen, GAINED).before == bucket_owner.of(joined(), GAINED).before != None  # noqa: E711


def test_nobody_served_before_if_all_who_were_there_had_no_weight() -> None:
    found = bucket_owner.of(observed(ONE, TWO, reports={1: replace(REPORT, before={1: 0})}), 1)
    assert (found.before, found.knows_before) == (None, True)


def test_what_was_before_is_unknown_while_nobody_has_reported_under_the_view() -> None:
    behind = replace(REPORT, view=FORMER, before={1: 1, 2: 1})
    found = bucket_owner.of(joined(reports={1: behind, 3: behind}), GAINED)
    assert (found.before, found.knows_before) == (None, False)


def test_another_member_tells_what_was_before_if_the_owner_has_not_reported_yet() -> None:
    found = bucket_owner.of(
        joined(reports={1: replace(REPORT, before={1: 1, 2: 1}), 3: replace(REPORT, view=None)}),
        GAINED,
    )
    assert found.knows_before
    assert found.before != found.owner


def test_a_move_waits_for_each_member_that_has_not_let_go() -> None:
    acks = {
        1: Ack(NOW, Phase.PREPARED),
        2: Ack(FORMER, Phase.RELEASED),
        3: Ack(NOW, Phase.RELEASED),
    }
    move = bucket_owner.of(joined(acks=acks), GAINED).move
    assert (
        move == "waiting until every member has released its losses; not yet: backend-1 (prepared),"
        " backend-2 (has not acknowledged this view)"
    )
    assert (
        "backend-3 (has not acknowledged this view)"
        in bucket_owner.of(joined(acks={}), GAINED).move
    )


def test_a_move_without_a_known_past_waits_too() -> None:
    assert bucket_owner.of(joined(acks={}, reports={}), STAYED).move != ""


def test_a_dry_run_is_waited_for_by_nobody() -> None:
    onlooker = replace(SOMEONE, id=4, state=DRY_RUN)
    acks = {member: Ack(NOW, Phase.RELEASED) for member in (1, 2, 3)}
    seen = observed(
        ONE, TWO, THREE, onlooker, acks=acks, reports={3: replace(REPORT, before={1: 1, 2: 1})}
    )
    assert bucket_owner.of(seen, GAINED).move == ""


def test_one_that_all_have_let_go_of_has_yet_to_be_taken() -> None:
    found = bucket_owner.of(joined(findings=Findings(holes=frozenset({GAINED}))), GAINED)
    assert (
        found.move
        == "every member has released its losses; backend-3 has yet to acquire the bucket, or waits"
        " until the lease of a departed member has expired"
    )
    assert found.in_force == "nowhere"


def test_an_owner_that_drains_is_told_so() -> None:
    seen = observed(
        replace(ONE, state=DRAINING), TWO, reports={2: replace(REPORT, before={1: 1, 2: 1})}
    )
    bucket = moved(built(1, 2), built(2))
    assert bucket_owner.of(seen, bucket).before == Party("backend-1", "s1", DRAINING)


def test_an_overlap_names_all_who_hold_it() -> None:
    found = bucket_owner.of(joined(findings=Findings(overlaps={STAYED: (1, 3)})), STAYED)
    assert found.in_force == "on backend-1 and backend-3 at once"
