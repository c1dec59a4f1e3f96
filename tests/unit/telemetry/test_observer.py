from __future__ import annotations

from dataclasses import replace

import pytest

from maglev0.core import table
from maglev0.core.view import DRAINING, DRY_RUN, FAILING
from maglev0.errors import ZooKeeperError
from maglev0.protocol.handover import Ack, Phase
from maglev0.protocol.orders import Order
from maglev0.protocol.ports.zookeeper import Stat
from maglev0.telemetry.node_report import pack
from maglev0.telemetry.observer import READ_ATTEMPTS, observe, view_number
from tests.simulation.tree import Tree
from tests.support.clusters import PATHS, SESSION, Cluster, member_of
from tests.support.direct import DirectZooKeeper, put, run


def test_a_sound_cluster_is_seen_as_it_is() -> None:
    cluster = Cluster.of(1, 2, 3)
    seen = cluster.look()
    assert seen.settings == cluster.settings
    assert [member.id for member in seen.view.members] == [1, 2, 3]
    assert seen.view.id == cluster.view
    assert seen.view_number == view_number(seen.view) == 3
    assert seen.owners == table.build(16, {"backend-1": 1, "backend-2": 1, "backend-3": 1})
    assert sorted(bucket for share in seen.shares.values() for bucket in share) == list(
        range(1, 17)
    )
    assert seen.acks == dict.fromkeys((1, 2, 3), Ack(cluster.view, Phase.RELEASED))
    assert set(seen.leases) == set(seen.reports) == {1, 2, 3}
    assert not seen.ignored
    assert seen.findings.is_sound
    assert not seen.findings.unknown


def test_observing_writes_nothing() -> None:
    cluster = Cluster.of(1, 2)
    before = dict(cluster.tree.nodes)
    cluster.look()
    assert cluster.tree.nodes == before


def test_without_a_cluster_there_is_nothing_to_see() -> None:
    with pytest.raises(ZooKeeperError, match="no cluster at /lab"):
        run(observe(DirectZooKeeper(Tree(), 1), PATHS))


def test_settings_that_cannot_be_read_are_named() -> None:
    cluster = Cluster.of(1)
    put(cluster.tree, PATHS.settings, b"{")
    with pytest.raises(ZooKeeperError, match="settings cannot be read"):
        cluster.look()


def test_settings_that_others_may_have_written_are_none() -> None:
    cluster = Cluster.of(1)
    cluster.tree.nodes[PATHS.settings] = cluster.tree.nodes[PATHS.settings]._replace(ours=False)
    with pytest.raises(ZooKeeperError, match="not of your identity alone"):
        cluster.look()


def test_a_deleted_parent_is_named() -> None:
    cluster = Cluster.of(1)
    cluster.gone(PATHS.members)
    with pytest.raises(ZooKeeperError, match="members was deleted"):
        cluster.look()


def test_an_overlap_and_a_hole_are_found_by_what_the_kernels_hold() -> None:
    cluster = Cluster.of(1, 2, 3)
    lost, foreign = min(cluster.share(1)), min(cluster.share(2))
    cluster.hold(1, cluster.share(1) - {lost} | {foreign})
    found = cluster.look().findings
    assert found.overlaps == {foreign: (1, 2)}
    assert found.holes == {lost}


def test_a_member_without_a_lease_accepts_nothing_whatever_its_kernel_holds() -> None:
    cluster = Cluster.of(1, 2)
    cluster.report(2, lease_left_s=-0.1)
    assert cluster.look().findings.holes == cluster.share(2)
    cluster.hold(2, cluster.share(1), lease_left_s=0.0)
    assert cluster.look().findings.holes == cluster.share(2)
    assert not cluster.look().findings.overlaps


@pytest.mark.parametrize("path", [PATHS.report(2), PATHS.holding(2)])
def test_a_member_that_does_not_report_its_buckets_is_unknown(path: str) -> None:
    cluster = Cluster.of(1, 2)
    cluster.hold(2, frozenset({1}))
    cluster.gone(path)
    found = cluster.look().findings
    assert found.unknown == (2,)
    assert found.is_sound


@pytest.mark.parametrize("path", [PATHS.report(2), PATHS.holding(2)])
def test_a_report_that_cannot_be_read_counts_as_none(path: str) -> None:
    cluster = Cluster.of(1, 2)
    cluster.hold(2, frozenset({1}))
    put(cluster.tree, path, b"nonsense", SESSION)
    assert cluster.look().findings.unknown == (2,)


def test_a_dry_run_holds_nothing_in_a_kernel() -> None:
    cluster = Cluster.of(1, 2)
    cluster.change(2, state=DRY_RUN)
    cluster.settle()
    cluster.hold(2, cluster.share(1))
    seen = cluster.look()
    assert seen.shares == {1: frozenset(range(1, 17)), 2: frozenset()}
    assert seen.findings.is_sound
    cluster.gone(PATHS.report(2))
    assert not cluster.look().findings.unknown


def test_a_draining_member_that_still_holds_buckets_is_found() -> None:
    cluster = Cluster.of(1, 2)
    share = cluster.share(2)
    cluster.change(2, state=DRAINING)
    cluster.settle(1)
    cluster.hold(2, share)
    assert set(cluster.look().findings.overlaps) == share


def test_if_all_fail_all_keep_their_share() -> None:
    cluster = Cluster.of(1, 2)
    before = cluster.look().shares
    cluster.change(1, state=FAILING)
    cluster.change(2, state=FAILING)
    assert cluster.look().shares == before


def test_without_a_serving_member_no_bucket_has_an_owner() -> None:
    cluster = Cluster.of(1)
    cluster.change(1, weight=0)
    cluster.settle()
    seen = cluster.look()
    assert set(seen.owners) == {""}
    assert seen.findings.holes == frozenset(range(1, 17))


def test_children_that_are_no_members_are_ignored_with_a_reason() -> None:
    cluster = Cluster.of(1)
    put(cluster.tree, PATHS.member(2), member_of(2).encode())
    put(cluster.tree, PATHS.member(3), b"{", SESSION)
    put(cluster.tree, f"{PATHS.members}/what", b"", SESSION)
    put(cluster.tree, PATHS.member(4), member_of(4).encode(), SESSION)
    cluster.tree.nodes[PATHS.member(4)] = cluster.tree.nodes[PATHS.member(4)]._replace(ours=False)
    seen = cluster.look()
    assert [member.id for member in seen.view.members] == [1]
    assert {child.name: child.reason.partition(",")[0] for child in seen.ignored} == {
        "2": "it is not ephemeral",
        "3": "not JSON",
        "4": "others than this cluster may change it: its ACL is not the cluster's",
        "what": "not a member id",
    }


def test_znodes_that_others_may_have_written_count_for_nothing() -> None:
    cluster = Cluster.of(1, 2)
    put(cluster.tree, PATHS.order(1), Order(drained=True).encode())
    for path in (PATHS.report(1), PATHS.ack(1), PATHS.lease(1), PATHS.order(1)):
        cluster.tree.nodes[path] = cluster.tree.nodes[path]._replace(ours=False)
    seen = cluster.look()
    assert set(seen.reports) == set(seen.acks) == set(seen.leases) == {2}
    assert not seen.orders


def test_orders_for_absent_members_are_seen_and_unreadable_ones_are_not() -> None:
    cluster = Cluster.of(1)
    put(cluster.tree, PATHS.order(1), Order(weight=3).encode())
    put(cluster.tree, PATHS.order(70), Order(drained=True).encode())
    put(cluster.tree, PATHS.order(8), b"nonsense")
    put(cluster.tree, f"{PATHS.orders}/what", b"")
    assert cluster.look().orders == {1: Order(weight=3), 70: Order(drained=True)}
    cluster.gone(PATHS.orders)
    assert cluster.look().orders == {}


def test_an_unreadable_acknowledgement_counts_as_none_and_an_unreadable_lease_is_kept() -> None:
    cluster = Cluster.of(1, 2)
    put(cluster.tree, PATHS.ack(1), b"", SESSION)
    put(cluster.tree, PATHS.lease(1), b"", SESSION)
    seen = cluster.look()
    assert set(seen.acks) == {2}
    assert seen.leases[1].record is None
    assert isinstance(seen.leases[1].stat, Stat)


def test_a_view_that_changes_while_it_is_read_is_read_again() -> None:
    cluster = Cluster.of(1, 2)
    zookeeper = DirectZooKeeper(cluster.tree, 1)
    # The third operation is the first that reads a member.
    zookeeper.before = lambda number: cluster.change(2, weight=5) if number == 3 else None
    seen = run(observe(zookeeper, PATHS))
    assert seen.view.id == cluster.view
    assert [member.weight for member in seen.view.members] == [1, 5]


def test_a_member_that_leaves_while_it_is_read_is_left_out() -> None:
    cluster = Cluster.of(1, 2)
    zookeeper = DirectZooKeeper(cluster.tree, 1)
    zookeeper.before = lambda number: cluster.gone(PATHS.member(2)) if number == 3 else None
    assert [member.id for member in run(observe(zookeeper, PATHS)).view.members] == [1]


def test_a_view_that_keeps_changing_is_taken_as_it_was_last() -> None:
    cluster = Cluster.of(1)
    zookeeper, changes = DirectZooKeeper(cluster.tree, 1), []

    def before(number: int) -> None:
        if 2 < number <= 2 + 3 * READ_ATTEMPTS and number % 3 == 0:
            changes.append(number)
            cluster.change(1, weight=number)

    zookeeper.before = before
    seen = run(observe(zookeeper, PATHS))
    assert len(changes) == READ_ATTEMPTS
    assert seen.view.members == (replace(member_of(1), weight=changes[-1]),)


def test_a_parent_that_is_deleted_while_it_is_read_is_named() -> None:
    cluster = Cluster.of(1)
    zookeeper = DirectZooKeeper(cluster.tree, 1)
    zookeeper.before = lambda number: cluster.gone(PATHS.members) if number == 4 else None
    with pytest.raises(ZooKeeperError, match="members was deleted"):
        run(observe(zookeeper, PATHS))


def test_the_buckets_of_a_kernel_are_read_only_where_they_are_not_its_share() -> None:
    cluster = Cluster.of(1, 2)
    put(cluster.tree, PATHS.holding(1), pack(16, range(1, 17)), SESSION)
    assert cluster.look().findings.is_sound
