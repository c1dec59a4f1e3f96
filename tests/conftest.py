"""What tests of one node alone start from."""

from __future__ import annotations

import pytest

from tests.simulation.tree import Tree
from tests.support.lone_node import Node


@pytest.fixture
def tree() -> Tree:
    return Tree()


@pytest.fixture
def node(tree: Tree) -> Node:
    made = Node(tree)
    made.agree()
    return made


@pytest.fixture
def member(node: Node) -> Node:
    node.rounds()
    assert node.gate.in_force == frozenset(range(1, 17))
    return node
