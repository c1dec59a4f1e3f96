from __future__ import annotations

import pytest

from maglev0.telemetry.own_znodes import ATTEMPTS, OwnZnodes
from tests.simulation.tree import Tree
from tests.support.direct import DirectZooKeeper, fails, put, remove, run

PATH = "/held/1"
FORMER, PRESENT = 7, 8


@pytest.fixture
def tree() -> Tree:
    tree = Tree()
    put(tree, "/held")
    return tree


def found(tree: Tree) -> tuple[bytes, int]:
    """The data of the znode, and the session that owns it."""
    node = tree.nodes[PATH]
    return node.data, node.stat.owner


def test_it_is_created_and_then_written_over_with_one_request_each(tree: Tree) -> None:
    zookeeper = DirectZooKeeper(tree, PRESENT)
    znodes = OwnZnodes(zookeeper)
    assert run(znodes.put(PATH, b"1"))
    before = zookeeper._asked
    for data in (b"2", b"3"):
        assert run(znodes.put(PATH, data))
        assert found(tree) == (data, PRESENT)
    assert zookeeper._asked == before + 2


def test_what_a_former_session_left_is_replaced(tree: Tree) -> None:
    put(tree, PATH, b"old", FORMER)
    assert run(OwnZnodes(DirectZooKeeper(tree, PRESENT)).put(PATH, b"new"))
    assert found(tree) == (b"new", PRESENT)


def test_another_session_of_the_same_process_replaces_what_it_wrote_before(tree: Tree) -> None:
    zookeeper = DirectZooKeeper(tree, FORMER)
    znodes = OwnZnodes(zookeeper)
    assert run(znodes.put(PATH, b"old"))
    zookeeper.session = PRESENT
    assert run(znodes.put(PATH, b"new"))
    assert found(tree) == (b"new", PRESENT)


def test_a_znode_of_this_session_that_another_process_wrote_is_written_over(tree: Tree) -> None:
    put(tree, PATH, b"before the restart", PRESENT)
    assert run(OwnZnodes(DirectZooKeeper(tree, PRESENT)).put(PATH, b"new"))
    assert found(tree) == (b"new", PRESENT)


def test_a_znode_that_others_deleted_or_changed_is_written_again(tree: Tree) -> None:
    znodes = OwnZnodes(DirectZooKeeper(tree, PRESENT))
    assert run(znodes.put(PATH, b"1"))
    remove(tree, PATH)
    assert run(znodes.put(PATH, b"2"))
    put(tree, PATH, b"by another hand", PRESENT)
    assert run(znodes.put(PATH, b"3"))
    assert found(tree) == (b"3", PRESENT)


def test_a_session_that_changes_meanwhile_is_told(tree: Tree) -> None:
    zookeeper = DirectZooKeeper(tree, FORMER)

    def replaced(number: int) -> None:
        if number == 2:
            zookeeper.session = PRESENT

    zookeeper.before = replaced
    znodes = OwnZnodes(zookeeper)
    assert not run(znodes.put(PATH, b"1"))
    assert run(znodes.put(PATH, b"2"))
    assert found(tree) == (b"2", PRESENT)


def test_a_path_that_others_change_all_the_time_is_given_up(tree: Tree) -> None:
    zookeeper = DirectZooKeeper(tree, PRESENT)
    zookeeper.before = lambda number: put(tree, PATH, b"x", FORMER) if number % 2 == 0 else None
    put(tree, PATH, b"x", FORMER)
    assert not run(OwnZnodes(zookeeper).put(PATH, b"1"))
    assert zookeeper._asked == 2 * ATTEMPTS
    assert found(tree)[1] == FORMER


def test_what_belongs_to_another_session_is_not_removed(tree: Tree) -> None:
    zookeeper = DirectZooKeeper(tree, PRESENT)
    znodes = OwnZnodes(zookeeper)
    run(znodes.remove(PATH))
    put(tree, PATH, b"x", FORMER)
    run(znodes.remove(PATH))
    assert PATH in tree.nodes
    run(znodes.put(PATH, b"1"))
    zookeeper.before = fails()
    run(znodes.remove(PATH))
    assert PATH not in tree.nodes
