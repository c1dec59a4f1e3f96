from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from maglev0.core.view import DRAINING, DRY_RUN, FAILING
from maglev0.operator.status import page
from maglev0.operator.status.page import (
    ALARM,
    IDLE,
    MOVING,
    SOUND,
    Status,
    essence,
    status_as_json,
)
from maglev0.protocol.handover import Ack, Phase
from maglev0.protocol.orders import Order
from maglev0.telemetry.node_report import STALE_S
from tests.support.clusters import NOW_S, PATHS, SEED, SESSION, VIP, Cluster
from tests.support.direct import put

LEASE_S = 2.0
SETTLED_S = 2.02 + page.REPORT_INTERVAL_S  # a lease, its margin, and the time to report it


def faulty(since_s: float) -> Cluster:
    """Two members; one has a bucket of the other in force, under a view of that age."""
    cluster = Cluster.of(1, 2)
    cluster.hold(1, cluster.share(1) | {min(cluster.share(2))}, view_at=NOW_S - since_s)
    cluster.report(2, view_at=NOW_S - since_s)
    return cluster


def test_a_sound_cluster_has_nothing_to_say() -> None:
    status = Cluster.of(1, 2, 3).status()
    assert status.vip == VIP
    assert status.view_number == 3
    assert status.view_age_s == 100
    assert status.verdict == SOUND
    assert not any((status.alarms, status.notes, status.waits_for, status.ignored, status.standing))
    assert all(row.is_plain and row.is_current for row in status.rows)
    assert sum(row.buckets for row in status.rows) == 16
    assert [row.uptime_s for row in status.rows] == [7300] * 3
    assert [row.report_age_s for row in status.rows] == [1] * 3


def test_a_fault_is_a_hand_over_at_first_and_an_alarm_after_it() -> None:
    young, old = faulty(SETTLED_S - 0.1).status(), faulty(SETTLED_S + 0.1).status()
    assert (young.verdict, young.alarms) == (MOVING, ())
    assert old.verdict == ALARM
    (alarm,) = old.alarms
    assert alarm.startswith("overlap: 1 bucket with more than one owner, such as ")
    assert alarm.endswith(" on backend-1 and backend-2")


def test_holes_are_counted_and_some_are_named() -> None:
    cluster = Cluster.of(1, 2)
    cluster.report(2, lease_left_s=0.0)
    status, missing = cluster.status(), sorted(cluster.share(2))
    assert status.alarms == (
        f"hole: 8 buckets without an owner, such as {', '.join(map(str, missing))}",
    )
    cluster.report(1, lease_left_s=0.0)
    assert cluster.status().alarms == (
        "hole: 16 buckets without an owner, such as 1, 2, 3, 4, 5, 6, 7, 8 and 8 more",
    )


def test_one_wrong_clock_neither_hides_a_fault_nor_makes_one() -> None:
    cluster = faulty(100)
    put(cluster.tree, PATHS.member(3), b"", SESSION)
    for member, view_at in ((1, NOW_S + 1e6), (2, NOW_S - 90)):
        cluster.report(member, view_at=view_at, view=cluster.view)
    assert cluster.status().verdict == ALARM
    cluster.report(1, view_at=NOW_S - 1e6)
    cluster.report(2, view_at=NOW_S)
    assert cluster.status().view_age_s == 1e6


def test_before_any_member_is_under_the_view_everything_moves() -> None:
    cluster = faulty(100)
    cluster.change(2, weight=3)
    status = cluster.status()
    assert status.view_age_s is None
    assert status.waits_for == (1, 2)
    assert (status.verdict, status.alarms) == (MOVING, ())
    assert cluster.status(NOW_S + STALE_S + 1).verdict == ALARM


@pytest.mark.parametrize("ack", [b"", Ack(Cluster.of(1, 2).view, Phase.PREPARED).encode()])
def test_a_hand_over_names_the_members_that_it_waits_for(ack: bytes) -> None:
    cluster = Cluster.of(1, 2)
    put(cluster.tree, PATHS.ack(2), ack, SESSION)
    assert cluster.status().waits_for == (2,)


def test_nobody_waits_for_a_node_in_a_dry_run() -> None:
    cluster = Cluster.of(1, 2)
    cluster.change(2, state=DRY_RUN)
    cluster.settle(1)
    assert cluster.status().waits_for == ()
    assert not cluster.status().rows[1].is_plain


@pytest.mark.parametrize(
    ("records", "alarm"),
    [
        ({}, "no members: no node answers clients"),
        (
            {1: {"state": DRAINING}, 2: {"weight": 0}, 3: {"state": DRY_RUN}},
            "no member serves: each is drained, in a dry run, or has weight 0",
        ),
    ],
)
def test_that_no_member_serves_is_an_alarm_at_once(
    records: dict[int, dict[str, Any]], alarm: str
) -> None:
    cluster = Cluster.of(*records)
    for member, changes in records.items():
        cluster.change(member, **changes)
    assert cluster.status().alarms == (alarm,)
    assert cluster.status().verdict == ALARM


def test_if_all_members_fail_a_note_says_that_they_keep_their_shares() -> None:
    cluster = Cluster.of(1, 2, 3)
    cluster.change(1, state=FAILING)
    cluster.change(2, state=FAILING)
    cluster.settle()
    assert cluster.status().notes == ()
    cluster.change(3, state=FAILING, weight=0)
    cluster.settle()
    status = cluster.status()
    assert status.verdict == SOUND
    assert status.notes == (
        (
            "the health checks of every member fail, so all members keep their shares: a bad answer"
            " is better than none"
        ),
    )
    assert [row.state for row in status.rows] == [FAILING] * 3


def test_members_without_a_report_or_a_fresh_one_are_named() -> None:
    cluster = Cluster.of(1, 2, 3)
    cluster.gone(PATHS.report(1))
    cluster.report(2, read_at=NOW_S - STALE_S - 1)
    cluster.report(3, read_at=NOW_S + 60)
    status = cluster.status()
    assert [note.partition(": ")[2] for note in status.notes] == [
        "what is in force on backend-1",
        "the daemon hangs, or its clock differs from this machine's",
        "this machine's clock is behind that of backend-3",
    ]
    assert [row.is_stale for row in status.rows] == [False, True, False]
    assert status.verdict == SOUND
    assert not status.rows[0].is_plain


def test_names_are_bounded() -> None:
    assert page.member_names(range(1, 1001)).endswith("backend-8 and 992 more")


def test_who_is_active_and_owns_nothing_is_idle() -> None:
    cluster = Cluster.of(1, 2)
    cluster.change(2, weight=0)
    cluster.settle()
    assert cluster.status().rows[1].state == IDLE
    assert cluster.status().rows[1].is_plain


def test_orders_stand_with_their_member_or_by_themselves() -> None:
    cluster = Cluster.of(1, 2)
    put(cluster.tree, PATHS.order(2), Order(weight=3).encode())
    put(cluster.tree, PATHS.order(9), Order(drained=True).encode())
    status = cluster.status()
    assert [row.order for row in status.rows] == [None, Order(weight=3)]
    assert status.standing == {9: Order(drained=True)}
    assert not status.rows[1].is_plain


def test_the_names_of_what_is_ignored_are_harmless() -> None:
    cluster = Cluster.of(1)
    put(cluster.tree, f"{PATHS.members}/\x1b[31m{'x' * 100}", b"", SESSION)
    (ignored,) = cluster.status().ignored
    assert ignored.name.isprintable()
    assert len(ignored.name) < 80


def test_a_node_that_cannot_serve_is_not_as_usual() -> None:
    cluster = Cluster.of(1, 2)
    cluster.report(1, able=False)
    cluster.report(2, problems=("tcp:80 refused",))
    assert not any(row.is_plain for row in cluster.status().rows)


def sample() -> Status:
    cluster = Cluster.of(1, 2)
    put(cluster.tree, f"{PATHS.members}/what", b"", SESSION)
    cluster.settle(2)
    cluster.hold(1, cluster.share(1) | {min(cluster.share(2))})
    put(cluster.tree, PATHS.order(2), Order(weight=3).encode())
    put(cluster.tree, PATHS.order(9), Order(drained=True).encode())
    cluster.gone(PATHS.report(2))
    return cluster.status()


def test_json_has_the_keys_that_scripts_know() -> None:
    found = json.loads(json.dumps(status_as_json(sample())))
    assert " ".join(found) == (
        "vip verdict alarms notes view settings members overlaps holes unknown ignored "
        "standing_orders"
    )
    assert found["view"] == {"number": 3, "age_s": 100.0, "waits_for": [1]}
    assert set(found["settings"]) == {
        "total_nodes",
        "hash_mode",
        "hash_family",
        "cluster_mac",
        "lease_s",
    }
    assert found["overlaps"] == {
        "count": 1,
        "examples": {str(min(sample().findings.overlaps)): [1, 2]},
    }
    assert found["holes"] == {"count": 0, "examples": []}
    assert found["unknown"] == [2]
    assert found["ignored"] == [
        {"name": "what", "reason": "not a member id, or not among the 4,096 lowest ids"}
    ]
    assert found["standing_orders"] == {"9": {"drained": True, "weight": None}}
    first, second = found["members"]
    assert {
        key: first[key] for key in ("id", "name", "host", "state", "weight", "order", "dataplane")
    } == {
        "id": 1,
        "name": "backend-1",
        "host": "web1",
        "state": "active",
        "weight": 1,
        "order": None,
        "dataplane": "nftables",
    }
    assert set(first["report"]) == {
        "age_s",
        "held",
        "lease_left_s",
        "kept",
        "connections",
        "can_serve",
        "problems",
        "xdp",
        "version",
    }
    assert second["report"] is None
    assert second["order"] == {"drained": False, "weight": 3}


def test_the_seed_is_nowhere() -> None:
    assert str(SEED) not in json.dumps(status_as_json(sample()))


def test_json_of_a_view_that_nobody_obeys_has_no_age() -> None:
    assert status_as_json(replace(sample(), view_age_s=None))["view"]["age_s"] is None


def test_as_long_as_only_clocks_go_on_nothing_happened() -> None:
    cluster = Cluster.of(1, 2)
    before = essence(cluster.status())
    cluster.report(1, read_at=NOW_S + 3, lease_left_s=0.5, flows=99)
    assert essence(cluster.status(NOW_S + 4)) == before
    cluster.report(1, problems=("tcp:80 refused",))
    assert essence(cluster.status(NOW_S + 4)) != before
    assert essence(sample()) != before
