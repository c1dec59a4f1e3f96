"""Records, acknowledgements and leases that others may change: nobody counts them.

All nodes agree on the view from which on they do not count.
"""

from __future__ import annotations

from maglev0.protocol.handover import Ack, Phase
from maglev0.protocol.membership import LeaseRecord, Membership, view_id
from tests.simulation.tree import Tree
from tests.support.direct import DirectZooKeeper, fails, put, run
from tests.support.lone_node import MINE, PATHS, Node, living


def _estrange(tree: Tree, path: str) -> None:
    """Somebody may change that znode who could not before."""
    tree.nodes[path] = tree.nodes[path]._replace(ours=False)


def _members(membership: Membership) -> list[int]:
    return [member.id for member in run(membership.view(16)).view.members]


def test_a_record_that_is_not_ours_any_more_ends_the_view_in_which_it_was(
    tree: Tree, member: Node
) -> None:
    living(tree)
    membership = Membership(DirectZooKeeper(tree, MINE), PATHS, 1)
    assert _members(membership) == [1, 5]
    _estrange(tree, PATHS.member(5))
    before = view_id(tree.nodes[PATHS.members].stat)
    assert _members(membership) == [1]
    after = view_id(tree.nodes[PATHS.members].stat)
    assert after.version == before.version + 1
    assert _members(membership) == [1]
    assert view_id(tree.nodes[PATHS.members].stat) == after
    assert member.tree is tree


def test_who_looks_while_another_ends_the_view_looks_again(tree: Tree, member: Node) -> None:
    living(tree)
    _estrange(tree, PATHS.member(5))
    zookeeper = DirectZooKeeper(tree, MINE)
    zookeeper.before = lambda number: put(tree, PATHS.members) if number == 5 else None
    assert _members(Membership(zookeeper, PATHS, 1)) == [1]
    assert member.tree is tree


def test_what_a_strange_acknowledgement_or_lease_says_is_not_believed(
    tree: Tree, member: Node
) -> None:
    membership = Membership(member.zookeeper, PATHS, 1)
    view = run(membership.view(16)).view.id
    put(tree, PATHS.ack(5), Ack(view, Phase.RELEASED).encode())
    put(tree, PATHS.lease(5), LeaseRecord("", 1, None, released=True).encode())
    lease = run(membership.lease(5))
    assert run(membership.acks([5])) == {5: Ack(view, Phase.RELEASED)}
    assert lease is not None
    assert lease.is_released
    _estrange(tree, PATHS.ack(5))
    _estrange(tree, PATHS.lease(5))
    assert run(membership.acks([5])) == {}
    for strange in (run(membership.lease(5)), run(membership.leases({1}))[5]):
        assert strange is not None
        assert (strange.record, strange.stat, strange.is_released) == (None, lease.stat, False)


def test_a_member_whose_own_record_is_not_ours_joins_anew(tree: Tree, member: Node) -> None:
    made = tree.nodes[PATHS.member(1)].stat.czxid
    _estrange(tree, PATHS.member(1))
    put(tree, PATHS.members)  # which the others do
    member.part.notice(PATHS.members)
    member.zookeeper.before = fails()
    member.now_s += 10
    member.rounds()
    assert tree.nodes[PATHS.member(1)].ours
    assert tree.nodes[PATHS.member(1)].stat.czxid > made
    assert member.gate.in_force == frozenset(range(1, 17))
