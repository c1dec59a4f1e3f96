"""The doctor judges the members: each by itself, against each other, against this machine."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from maglev0.core.service import HashFamily
from maglev0.core.settings import Wishes
from maglev0.core.view import DRAINING, DRY_RUN, FAILING
from maglev0.operator.doctor import cluster_state, member_state
from maglev0.operator.doctor.cluster_state import Own
from maglev0.operator.doctor.finding import Finding, Severity
from maglev0.operator.doctor.member_state import ClusterReading
from maglev0.protocol.orders import Order
from tests.support.clusters import NOW_S, PATHS, SESSION, SETTINGS, VIP, Cluster
from tests.support.direct import put

FAULT, WARNING, NOTE = Severity.FAULT, Severity.WARNING, Severity.NOTE
NOBODY = Own("", None, None)
WISHES = Wishes(None, None, None, None, (HashFamily.NFTABLES,))


def made(*members: int) -> Cluster:
    """A sound cluster; its members have different addresses."""
    found = Cluster.of(*members)
    for member in members:
        change(found, member)
    found.settle()
    return found


def change(found: Cluster, member: int, **changes: Any) -> None:
    found.change(
        member,
        **{
            "mac": mac_of(member),
            "address": f"198.18.0.{member}",
            "session_timeout_s": 4.0,
            "start_time": NOW_S - 100,
        }
        | changes,
    )


def mac_of(member: int) -> str:
    return f"02:4d:47:00:00:{member:02x}"


def look(found: Cluster, at_s: float = NOW_S) -> ClusterReading:
    return ClusterReading(found.look(), at_s)


def alarms(
    first: ClusterReading, last: ClusterReading | None = None, own: Own = NOBODY
) -> list[Finding]:
    return [
        finding
        for finding in cluster_state.judge(first, last or first, own, VIP)
        if finding.severity is not Severity.SOUND
    ]


def marks(
    first: ClusterReading, last: ClusterReading | None = None, own: Own = NOBODY
) -> set[tuple[Severity, str]]:
    return {(finding.severity, finding.check) for finding in alarms(first, last, own)}


def test_a_sound_cluster() -> None:
    found = look(made(1, 2, 3))
    assert alarms(found, own=Own(mac_of(1), 1, WISHES)) == []
    assert not cluster_state.is_suspect(found)


def test_who_is_here_and_who_can_be_asked() -> None:
    found = made(1, 2, 3)
    change(found, 2, state=DRY_RUN)
    change(found, 3, address="nowhere")
    seen = found.look()
    assert cluster_state.serving(seen, mac_of(1))
    assert not cluster_state.serving(seen, mac_of(2))
    assert not cluster_state.serving(seen, mac_of(9))
    assert not cluster_state.serving(seen, "")
    (peer,) = cluster_state.peers(seen, mac_of(1))
    assert (peer.name, peer.address, peer.mac, peer.answers) == (
        "backend-2",
        IPv4Address("198.18.0.2"),
        mac_of(2),
        False,
    )


def test_too_few_members() -> None:
    assert marks(look(made())) == {(NOTE, cluster_state.MEMBERS)}
    assert marks(look(made(1))) == {(NOTE, cluster_state.MEMBERS)}
    found = made(1, 2)
    change(found, 1, weight=0)
    change(found, 2, state=DRAINING)
    found.settle()
    assert marks(look(found)) == {(FAULT, cluster_state.MEMBERS), (NOTE, member_state.STATES)}


def test_an_owner_too_many_counts_when_it_lasts() -> None:
    found = made(1, 2)
    sound = look(found)
    found.hold(1, frozenset(range(1, 17)))
    assert marks(look(found)) == {(FAULT, cluster_state.OWNERS)}
    assert marks(sound, look(found)) == set()
    assert cluster_state.is_suspect(look(found))


def test_identities() -> None:
    found = made(1, 2, 3)
    assert marks(look(found), own=Own(mac_of(1), 2, None)) == {(FAULT, cluster_state.IDENTITIES)}
    assert marks(look(found), own=Own("", 2, None)) == set()
    change(found, 3, mac=mac_of(2))
    assert [finding.what for finding in alarms(look(found))] == [
        f"backend-2 and backend-3 have the same MAC address {mac_of(2)}"
    ]
    change(found, 3, address="198.18.0.1")
    assert [finding.what for finding in alarms(look(found))] == [
        "backend-1 and backend-3 have the same address 198.18.0.1"
    ]
    change(found, 3, mac="", address="")
    change(found, 2, mac="", address="")
    assert alarms(look(found)) == []


def test_znodes_that_are_no_members() -> None:
    found = made(1, 2)
    put(found.tree, PATHS.member(7), b"nonsense", SESSION)
    assert marks(look(found)) == {(WARNING, cluster_state.STRANGERS)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dataplane": HashFamily.CLUSTERIP}, {(FAULT, member_state.FAMILIES)}),
        ({"session_timeout_s": 2.0}, {(WARNING, member_state.SESSIONS)}),
        ({"state": FAILING}, {(WARNING, member_state.STATES)}),
        ({"state": DRAINING}, {(NOTE, member_state.STATES)}),
        ({"weight": 0}, {(NOTE, member_state.STATES)}),
        (
            {"state": DRY_RUN, "dataplane": HashFamily.CLUSTERIP, "session_timeout_s": 1.0},
            {(NOTE, member_state.STATES)},
        ),
        ({"start_time": NOW_S + 60}, {(WARNING, member_state.CLOCKS)}),
    ],
)
def test_what_a_members_record_says(
    changes: dict[str, Any], expected: set[tuple[Severity, str]]
) -> None:
    found = made(1, 2, 3)
    change(found, 3, **changes)
    found.settle()
    assert marks(look(found)) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": "0.3.9"}, {(NOTE, member_state.VERSIONS)}),
        ({"able": False, "problems": ("eth0 is down",)}, {(FAULT, member_state.STATES)}),
        ({"problems": ("conntrack is full",)}, {(WARNING, member_state.STATES)}),
        ({"read_at": NOW_S - 100}, {(WARNING, member_state.REPORTS)}),
        ({"read_at": NOW_S + 100}, {(WARNING, member_state.CLOCKS)}),
        ({"lease_left_s": 0.0}, {(FAULT, member_state.LEASES), (FAULT, cluster_state.OWNERS)}),
    ],
)
def test_what_a_members_report_says(
    changes: dict[str, Any], expected: set[tuple[Severity, str]]
) -> None:
    found = made(1, 2, 3)
    found.hold(3, found.look().shares[3], **changes)
    assert marks(look(found)) == expected


def test_a_member_without_a_report_and_one_that_came_between_the_looks() -> None:
    found = made(1, 2)
    put(
        found.tree,
        PATHS.member(3),
        found.look().view.members[1].encode().replace(b'"id": 2', b'"id": 3').replace(b"02", b"03"),
        SESSION,
    )
    before = made(1, 2)
    change(found, 3)
    assert (WARNING, member_state.REPORTS) not in marks(look(before), look(found))
    assert marks(look(found)) == {(WARNING, member_state.REPORTS)}
    assert cluster_state.is_suspect(look(found))


def test_a_clock_that_is_behind_is_told_from_a_report_that_is_stale() -> None:
    found = made(1, 2)
    share = found.look().shares[2]
    found.hold(2, share, read_at=NOW_S - 100)
    first = look(found)
    found.hold(2, share, read_at=NOW_S - 94)
    (finding,) = alarms(first, look(found, NOW_S + 6))
    assert (finding.severity, finding.check) == (WARNING, member_state.CLOCKS)
    assert "backend-2 is about 100 s behind this machine's clock" in finding.what


def test_a_lease_that_is_over_for_a_moment_is_none_of_a_node_that_owns_nothing() -> None:
    found = made(1, 2, 3)
    change(found, 3, weight=0)
    found.settle()
    found.hold(3, frozenset(), lease_left_s=-1.0)
    assert marks(look(found)) == {(NOTE, member_state.STATES)}


def test_orders_that_stand() -> None:
    found = made(1, 2)
    put(found.tree, PATHS.order(1), Order(weight=3).encode())
    put(found.tree, PATHS.order(9), Order(drained=True).encode())
    words = [
        finding.what for finding in alarms(look(found)) if finding.check == member_state.ORDERS
    ]
    assert words == [
        "backend-1 has weight 3 by an operator's order",
        "backend-9 (absent) is drained by an operator's order",
    ]


def test_flags_of_this_machine_that_contradict_the_cluster() -> None:
    found = look(made(1, 2))
    wishes = replace(WISHES, total_nodes=7, hash_seed=42)
    words = [finding.what for finding in alarms(found, own=Own(mac_of(1), 17, wishes))]
    assert words == [
        "--total-nodes=7 (the cluster has 16)",
        "--hash-seed=… (the cluster has another one)",
        "--my-id=17 is larger than the cluster's 16 buckets",
    ]


def test_cluster_macs() -> None:
    other = "03:bf:c6:33:64:02"
    assert [
        finding.severity
        for finding in cluster_state.judge_macs(
            {"198.51.100.1": SETTINGS.cluster_mac, "198.51.100.2": other}
        )
    ] == [Severity.SOUND]
    (finding,) = cluster_state.judge_macs({"198.51.100.1": other, "198.51.100.2": other})
    assert finding.what == f"198.51.100.1 and 198.51.100.2 have the same cluster MAC {other}"
