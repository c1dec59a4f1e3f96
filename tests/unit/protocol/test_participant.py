"""What one node does with what it finds in ZooKeeper, step by step.

The simulation has schedules of many nodes.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest

from maglev0.core.view import MAX_MEMBERS, View, ViewId, decode
from maglev0.errors import DataplaneError, ZooKeeperError
from maglev0.protocol.agreement import Unsettled
from maglev0.protocol.handover import Ack, Phase
from maglev0.protocol.membership import READ_ATTEMPTS, LeaseRecord, Membership, view_id
from maglev0.protocol.ports.zookeeper import Disconnected, Reason, Refused, Znode
from tests.simulation.tree import Tree
from tests.support.direct import DirectGate, fails, put, remove, run
from tests.support.lone_node import ME, MINE, OTHERS, PATHS, Node, living
from tests.support.members import SOMEONE

# The view.


def test_a_view_that_keeps_changing_is_given_up(tree: Tree, member: Node) -> None:
    seen = Membership(member.zookeeper, PATHS, 1)
    member.zookeeper.before = lambda number: put(tree, PATHS.members) if number % 2 else None
    with pytest.raises(Unsettled):
        run(seen.view(16))
    assert member.zookeeper._asked > READ_ATTEMPTS


def test_a_view_without_a_parent_makes_it_anew(tree: Tree, member: Node) -> None:
    remove(tree, PATHS.base)
    member.part.notice(None)
    with pytest.raises(Unsettled):
        run(member.part.round())
    assert PATHS.members in tree.nodes
    assert PATHS.leases in tree.nodes
    member.rounds(2)
    member.now_s += 10.0  # others may have left without a trace
    member.rounds()
    assert PATHS.member(1) in tree.nodes


def test_a_parent_that_vanishes_alone_is_made_anew(tree: Tree, member: Node) -> None:
    remove(tree, PATHS.members)
    member.part.notice(PATHS.members)
    with pytest.raises(Unsettled):
        run(member.part.round())
    assert PATHS.members in tree.nodes


def test_a_record_of_its_own_session_is_taken_back_though_nobody_can_read_it(
    tree: Tree, node: Node
) -> None:
    put(tree, PATHS.member(1), b"{", MINE)
    run(node.part.round())
    assert node.part.node_state.is_member
    assert node.part.node_state.me.pid == ME.pid


def test_children_that_are_no_members_are_told_once_and_the_rest_counted(
    tree: Tree, member: Node, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(30):
        put(tree, f"{PATHS.members}/x{number}")
    seen = Membership(member.zookeeper, PATHS, 1)
    for _ in range(2):
        run(seen.view(16))
    told = [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]
    assert len(told) == 21
    assert told[-1].startswith("ignored 10 more children")


def test_without_a_parent_of_leases_there_are_none(tree: Tree, member: Node) -> None:
    remove(tree, PATHS.leases)
    assert run(Membership(member.zookeeper, PATHS, 1).leases(set())) == {}


# In and out.


def test_what_the_server_granted_stands_in_the_record(tree: Tree, node: Node) -> None:
    node.part.granted(2.5)
    node.rounds()
    assert replace(ME, session_timeout_s=2.5).encode() == tree.nodes[PATHS.member(1)].data


def test_a_full_cluster_takes_no_higher_id(node: Node) -> None:
    full = View(
        ViewId(1, 1, 1), tuple(replace(SOMEONE, id=number) for number in range(2, MAX_MEMBERS + 2))
    )
    late = Node(node.tree, replace(SOMEONE, id=MAX_MEMBERS + 5))
    with pytest.raises(ZooKeeperError, match="the cluster is full"):
        run(late.part.joining.join(full, 0))


def test_an_id_that_a_persistent_znode_holds_is_named(tree: Tree, node: Node) -> None:
    put(tree, PATHS.member(1))
    with pytest.raises(
        ZooKeeperError, match=r"members/1 is a persistent znode, which no daemon holds: delete it"
    ):
        run(node.part.round())


@pytest.mark.parametrize("record", [ME.encode(), b"{"], ids=["a member", "unreadable"])
def test_an_id_that_another_session_holds_is_waited_for_and_then_refused(
    tree: Tree, node: Node, record: bytes
) -> None:
    put(tree, PATHS.member(1), record, OTHERS)
    assert run(node.part.round()) == 8.0
    node.now_s += 5.0
    assert run(node.part.round()) == 3.0
    node.now_s += 3.0
    with pytest.raises(ZooKeeperError, match="id 1 is held by another live daemon"):
        run(node.part.round())


def test_a_lease_of_a_former_life_on_another_kernel_is_waited_for(tree: Tree, node: Node) -> None:
    put(tree, PATHS.lease(1), LeaseRecord("another", 7, None).encode())
    over_s = node.part.handover.terms.over_s
    assert run(node.part.round()) == pytest.approx(over_s)
    node.now_s += 1.0
    assert run(node.part.round()) == pytest.approx(over_s - 1.0)
    node.now_s += over_s
    node.rounds()
    assert node.part.node_state.is_member


def test_a_joining_that_others_disturb_is_tried_again(tree: Tree, node: Node) -> None:
    put(tree, PATHS.ack(1), b"", OTHERS)  # of a record that is gone
    node.rounds()
    assert node.part.node_state.is_member
    assert tree.nodes[PATHS.ack(1)].stat.owner == MINE


def test_a_record_that_appears_while_joining_is_looked_at(tree: Tree, node: Node) -> None:
    node.zookeeper.before = appears(tree, node)
    assert run(node.part.round()) == pytest.approx(0.1)
    assert not node.part.node_state.is_member


def appears(tree: Tree, node: Node) -> Callable[[int], None]:
    def before(_number: int) -> None:
        if PATHS.member(1) not in tree.nodes and node.part._seen is not None:
            put(tree, PATHS.member(1), ME.encode(), OTHERS)

    return before


def test_a_kernel_that_cannot_be_told_is_not_said_to_be_released(tree: Tree, member: Node) -> None:
    async def refuse() -> None:
        raise DataplaneError("no")

    member.gate.drop = refuse  # type: ignore[method-assign]
    run(member.part.joining.withdraw())
    assert PATHS.member(1) not in tree.nodes
    lease = run(Membership(member.zookeeper, PATHS, 1).lease(1))
    assert lease is not None
    assert not lease.is_released


def test_a_withdrawal_that_is_refused_again_and_again_ends(tree: Tree, member: Node) -> None:
    member.zookeeper.before = fails(*range(1, 1000), error=lambda: Refused(0, Reason(version=True)))
    run(member.part.joining.withdraw())
    assert not member.part.node_state.is_member
    assert PATHS.member(1) in tree.nodes


def test_a_member_whose_acknowledgement_is_gone_withdraws_all_the_same(
    tree: Tree, member: Node
) -> None:
    remove(tree, PATHS.ack(1))
    run(member.part.joining.withdraw())
    assert PATHS.member(1) not in tree.nodes


def test_who_is_no_member_has_nothing_to_withdraw(tree: Tree, node: Node) -> None:
    run(node.part.joining.withdraw())
    assert PATHS.lease(1) not in tree.nodes


# The connections that stay.


def test_a_bucket_is_kept_until_two_looks_in_a_row_find_no_connection_in_it(member: Node) -> None:
    member.part.node_state.keeps(frozenset({3, 20}))
    run(member.part.sweep())
    assert member.gate.asked[-1] != "forget [20]"
    run(member.part.sweep())
    assert member.gate.asked[-1] == "forget [20]", "3 is in force again"
    run(member.part.sweep())
    assert member.gate.asked.count("forget [20]") == 1


# The lease.


def test_a_lease_that_another_kernel_renews_ends_the_daemon(tree: Tree, member: Node) -> None:
    put(tree, PATHS.lease(1), LeaseRecord("another", 7, None).encode())
    with pytest.raises(
        ZooKeeperError, match=r"renewed by another daemon \(pid 7 of another host\)"
    ):
        run(member.part.renewal.renew())
    assert member.gate.asked[-1] == "drop"


def test_a_node_that_left_while_it_learned_its_version_writes_nothing(member: Node) -> None:
    member.part.node_state.lease_unsure()
    version = member.tree.nodes[PATHS.lease(1)].stat.version
    member.zookeeper.before = lambda _number: member.part.node_state.lost()
    run(member.part.renewal.renew())
    assert member.tree.nodes[PATHS.lease(1)].stat.version == version


def test_an_acknowledgement_that_somebody_deleted_is_made_anew(tree: Tree, member: Node) -> None:
    remove(tree, PATHS.ack(1))
    member.part.node_state.acked = None
    for _ in range(3):
        run(member.part.renewal.renew())
    (ack,) = run(Membership(member.zookeeper, PATHS, 2).acks([1])).values()
    assert ack == Ack(member.part.handover.view_id or ViewId(0, 0, 0), Phase.RELEASED)


def test_a_mending_that_is_cut_off_is_tried_again(tree: Tree, member: Node) -> None:
    remove(tree, PATHS.lease(1))
    member.zookeeper.before = fails(member.zookeeper._asked + 2)
    run(member.part.renewal.renew())
    assert not member.part.node_state.lease_known
    member.zookeeper.before = fails()
    for _ in range(2):
        run(member.part.renewal.renew())
    assert PATHS.lease(1) in tree.nodes


def test_who_disturbs_again_and_again_gets_no_more_than_its_share(tree: Tree, member: Node) -> None:
    for due in (True, False):
        put(tree, PATHS.lease(1), b"{")
        run(member.part.renewal.renew())
        assert member.part.renewal.due is due


def test_a_distrusted_lease_ends_and_is_renewed(member: Node) -> None:
    run(member.part.renewal.distrust())
    assert member.gate.asked[-1] == "drop"
    assert member.part.renewal.due
    run(member.part.renewal.renew())
    assert member.gate.asked[-1] == "promote"


class Overtaken(DirectGate):
    """A kernel whose lease is dropped right before or right after it is promoted."""

    def __init__(self, drop: Callable[[], Awaitable[None]], *, before: bool) -> None:
        super().__init__()
        self._drop_lease = drop
        self._before = before

    async def promote(self) -> None:
        if self._before:
            await self._drop_lease()
        await super().promote()
        await self._drop_lease()


@pytest.mark.parametrize("before", [True, False])
def test_a_lease_that_is_dropped_while_it_is_renewed_is_not_believed(
    member: Node, *, before: bool
) -> None:
    renewal = member.part.renewal
    timer = Overtaken(renewal.distrust, before=before)
    renewal._environment = renewal._environment._replace(lease_timer=timer)
    with pytest.raises(DataplaneError) if before else nullcontext():
        run(renewal.renew())
    assert timer.asked[-1] == "drop"
    assert member.part.handover.lease_until == -math.inf
    assert renewal.due


def test_who_holds_goes_on_alone_and_who_does_not_lets_it_end(member: Node) -> None:
    member.zookeeper.before = fails(*range(1, 1000))
    run(member.part.renewal.renew())
    assert member.gate.asked[-1] == "arm"
    member.part.renewal._environment = member.part.renewal._environment._replace(hold=True)
    run(member.part.renewal.renew())
    assert member.gate.asked[-1] == "promote"


def test_an_acknowledgement_that_changes_while_it_is_read_is_read_again(
    tree: Tree, node: Node
) -> None:
    """Its watch has fired by the time that the answer is here, and will not fire again."""
    for number in (5, 6):
        living(tree, number)
        put(tree, PATHS.ack(number), b"", OTHERS)
    wait(node)
    released = Ack(view_id(tree.nodes[PATHS.members].stat), Phase.RELEASED).encode()
    get_all = node.zookeeper.get_all

    async def overtaken(paths: Sequence[str], *, watch: bool = False) -> list[Znode | None]:
        found = await get_all(paths, watch=watch)
        put(tree, PATHS.ack(6), released, OTHERS)
        node.part.notice(PATHS.ack(6))
        return found

    node.zookeeper.get_all = overtaken  # type: ignore[method-assign]
    put(tree, PATHS.ack(5), released, OTHERS)
    for number in (5, 6):
        node.part.notice(PATHS.ack(number))
    wait(node)
    assert node.part.handover.lacking(Phase.RELEASED) == frozenset()


def wait(node: Node) -> None:
    """Go on until there is nothing to do but to wait, which there is after a few steps."""
    while run(node.part.round()) == 0:
        pass


def test_reading_acknowledgements_that_is_cut_off_is_tried_again(tree: Tree, member: Node) -> None:
    living(tree)
    put(tree, PATHS.members)
    member.part.notice(PATHS.members)
    run(member.part.round())
    member.zookeeper.before = fails(*range(1, 1000))
    with pytest.raises(Disconnected):
        run(member.part.round())
    assert member.part._stale_acks == {5}


def test_what_is_wished_for_stands_in_the_record_and_takes_a_hand_over(
    member: Node, tree: Tree
) -> None:
    before = member.part.handover.view_id
    member.part.wish("draining", 7)
    member.rounds()
    assert (member.part.handover.view_id != before, member.part.node_state.me.state) == (
        True,
        "draining",
    )
    assert decode("1", tree.nodes[PATHS.member(1)].data).weight == 7
    assert member.gate.in_force == frozenset(range(1, 17))  # by this model's share
    after = member.part.handover.view_id
    member.part.wish("draining", 7)
    member.rounds()
    assert member.part.handover.view_id == after
