"""What tests of one node alone start from."""

from __future__ import annotations

import pytest

from tests.lonenode import Node
from tests.simulation.tree import Tree


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
