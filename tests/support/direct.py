"""A ZooKeeper and a kernel that answer at once, for tests of one node.

The znodes behave as those of the simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TypeVar

from maglev0.core.transition import Move
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.gate import Commit
from maglev0.protocol.ports.readings import Connections
from maglev0.protocol.ports.zookeeper import (
    Committed,
    Create,
    Delete,
    Disconnected,
    Operation,
    Refused,
    Stat,
    Write,
    Znode,
)
from tests.simulation.tree import Tree

_Answer = TypeVar("_Answer")


def run(coroutine: Coroutine[object, object, _Answer]) -> _Answer:
    """Run to its end what never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        answer: _Answer = end.value
        return answer
    raise AssertionError("it waits for something")


class DirectZooKeeper:
    """One session on a tree that all sessions share.

    `before` is called with the number of each operation before it takes place.
    """

    def __init__(self, tree: Tree, session: int) -> None:
        self.tree = tree
        self.session = session
        self.before: Callable[[int], None] = lambda _number: None
        self._asked = 0

    def _ask(self) -> None:
        self._asked += 1
        self.before(self._asked)

    async def get(self, path: str, *, watch: bool = False) -> Znode | None:
        assert watch in (False, True)
        self._ask()
        return self.tree.nodes.get(path)

    async def get_all(self, paths: Sequence[str], *, watch: bool = False) -> list[Znode | None]:
        return [await self.get(path, watch=watch) for path in paths]

    async def children(self, path: str, *, watch: bool = False) -> tuple[list[str], Stat] | None:
        node = await self.get(path, watch=watch)
        return None if node is None else (list(self.tree.children[path]), node.stat)

    async def commit(self, operations: Sequence[Operation], look: str | None = None) -> Committed:
        self._ask()
        zxid = commit(self.tree, operations, self.session)
        looked = None if look is None else self.tree.nodes.get(look)
        return Committed(
            zxid if any(isinstance(operation, Write) for operation in operations) else 0,
            None if looked is None else looked.stat,
        )


def commit(tree: Tree, operations: Sequence[Operation], session: int = 0) -> int:
    """Do this to the znodes, as somebody."""
    zxid = 1 + max(max(node.stat.mzxid, node.stat.pzxid) for node in tree.nodes.values())
    tree.apply(tree.plan(zxid, operations, session))
    return zxid


def put(tree: Tree, path: str, data: bytes = b"", session: int = 0) -> None:
    """Create or write a znode as somebody else."""
    commit(
        tree,
        [
            Write(path, data, -1)
            if path in tree.nodes
            else Create(path, data, ephemeral=bool(session))
        ],
        session,
    )


def remove(tree: Tree, path: str) -> None:
    """Delete a znode and all below it as somebody else."""
    commit(tree, [Delete(lower, -1) for lower in tree.below(path)])


def fails(*numbers: int, error: Callable[[], Exception] = Disconnected) -> Callable[[int], None]:
    """For `before`: the operations of these numbers fail."""

    def before(number: int) -> None:
        if number in numbers:
            raise error()

    return before


class DirectGate:
    """A kernel that does at once what it is asked."""

    def __init__(self, owned: frozenset[int] = frozenset()) -> None:
        self.in_force = owned
        self.asked: list[str] = []
        self.is_armed = False
        self._move = Move(frozenset(), frozenset())

    async def stage(self, move: Move) -> None:
        self._move = move

    async def commit(self, to: Commit) -> None:
        self.in_force = (self.in_force - self._move.losses) | (
            self._move.gains if to is Commit.ACQUIRE else frozenset()
        )

    async def arm(self) -> None:
        self.is_armed = True
        self.asked.append("arm")

    async def promote(self) -> None:
        if not self.is_armed:
            raise DataplaneError("promote: no armed timer")
        self.is_armed = False
        self.asked.append("promote")

    async def drop(self) -> None:
        self.is_armed = False
        self.asked.append("drop")

    async def owned(self) -> frozenset[int]:
        return self.in_force

    async def kept(self) -> frozenset[int]:
        return frozenset()

    async def connections(self) -> Connections:
        return Connections(frozenset(), 0)

    async def unpin(self, buckets: frozenset[int]) -> None:
        self.asked.append(f"forget {sorted(buckets)}")


__all__ = ["DirectGate", "DirectZooKeeper", "Refused", "commit", "fails", "put", "remove", "run"]
