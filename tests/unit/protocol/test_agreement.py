"""The settings a cluster lives by: founded, adopted, not contradicted, restored."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from maglev0.core.settings import FORMAT, Wishes
from maglev0.errors import ConfigError, ZooKeeperError
from maglev0.protocol.agreement import Unsettled
from maglev0.protocol.ports.zookeeper import Reason, Refused
from tests.simulation.tree import Tree
from tests.support.direct import fails, put, remove, run
from tests.support.lone_node import FAMILIES, FOUNDER, NO_WISH, OTHERS, PATHS, Node, living
from tests.support.members import SOMEONE
from tests.support.settings import AGREED


def test_a_first_node_founds_the_cluster_and_a_second_adopts(tree: Tree, node: Node) -> None:
    founded = node.agree()
    assert run(node.agreement.confirm(registered=False)) == 0
    second = Node(tree, replace(SOMEONE, id=2), OTHERS)
    assert second.agree() == founded
    with pytest.raises(ZooKeeperError, match="never read"):
        run(Node(tree).agreement.confirm(registered=False))


def test_settings_of_living_members_are_not_contradicted(tree: Tree, node: Node) -> None:
    living(tree)
    put(tree, PATHS.settings, AGREED.encode())
    with pytest.raises(
        ConfigError, match=r"--total-nodes=7 .*: stop the members of .* first \(5\)"
    ):
        node.agree(replace_wish(7))
    put(tree, PATHS.settings, b"{")
    with pytest.raises(ZooKeeperError, match=r"cannot be read .*members run with others \(5\)"):
        Node(tree).agree()
    assert tree.nodes[PATHS.settings].data == b"{"


@pytest.mark.parametrize("other", [FORMAT - 1, FORMAT + 1], ids=["older", "newer"])
def test_settings_of_another_format_say_what_to_do(tree: Tree, node: Node, other: int) -> None:
    living(tree)
    put(tree, PATHS.settings, json.dumps({"format": other}).encode())
    with pytest.raises(ZooKeeperError) as refusal:
        node.agree()
    assert (
        f"format {other}, this version of maglev0 uses format {FORMAT}: "
        "stop the members of the other version first, or run their version here"
    ) in str(refusal.value)


def replace_wish(total_nodes: int) -> Wishes:
    return Wishes(total_nodes, None, None, None, FAMILIES)


@pytest.mark.usefixtures("node")
def test_settings_that_are_gone_are_left_to_who_lives_by_them_or_restored_by_who_remembers(
    tree: Tree,
) -> None:
    remove(tree, PATHS.settings)
    living(tree)
    with pytest.raises(Unsettled):
        Node(tree).agree()
    assert PATHS.settings not in tree.nodes
    assert Node(tree).agree(founder=FOUNDER._replace(former=AGREED)) == AGREED


@pytest.mark.usefixtures("node")
def test_settings_nobody_lives_by_are_replaced(tree: Tree) -> None:
    put(tree, PATHS.settings, b"{")
    assert Node(tree).agree(replace_wish(7)).total_nodes == 7


def test_a_founder_beside_whom_others_join_looks_again(tree: Tree) -> None:
    late = Node(tree)
    run(late.agreement.ensure_paths())
    late.zookeeper.before = lambda _number: put(tree, PATHS.members)
    with pytest.raises(Unsettled):
        run(late.agreement.agree(1, NO_WISH, FOUNDER))
    assert PATHS.settings not in tree.nodes


def test_settings_that_change_under_a_member_are_restored_and_stop_another(
    tree: Tree, member: Node
) -> None:
    founded = tree.nodes[PATHS.settings].data
    put(tree, PATHS.settings, replace(AGREED, hash_seed=9).encode())
    with pytest.raises(ZooKeeperError, match="settings changed while this node was away"):
        run(member.agreement.confirm(registered=False))
    with pytest.raises(Unsettled):
        run(member.agreement.confirm(registered=True))
    assert tree.nodes[PATHS.settings].data == founded
    put(tree, PATHS.settings, b"{")
    with pytest.raises(ZooKeeperError, match="run another version"):
        run(member.agreement.confirm(registered=False))


def test_a_parent_that_vanishes_while_its_children_are_made(tree: Tree) -> None:
    node = Node(tree)
    node.zookeeper.before = fails(2, error=lambda: Refused(0, Reason(missing=True)))
    with pytest.raises(Unsettled):
        run(node.agreement.ensure_paths())
    second = node.zookeeper._asked + 2
    node.zookeeper.before = lambda number: put(tree, "/a") if number == second else None
    run(
        node.agreement.ensure_paths()
    )  # somebody else was faster: the next path is made under that one
    with pytest.raises(Unsettled):
        run(Node(Tree()).agreement._living())
