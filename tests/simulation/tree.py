"""The znodes of one server, and what transactions do to them.

Versions, zxids and ephemeral owners are as in ZooKeeper's DataTree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from maglev0.protocol.ports.zookeeper import (
    Create,
    Delete,
    Operation,
    Reason,
    Refused,
    Stat,
    VersionGuard,
    Write,
    Znode,
)


class Change(NamedTuple):
    """One znode as a transaction leaves it (`None`: deleted).

    `watched`: its data's and its children's watches fire.
    """

    path: str
    node: Znode | None
    data: bool
    children: bool


class Transaction(NamedTuple):
    """All changes of one zxid; `closes` is the session that ends with it."""

    zxid: int
    changes: tuple[Change, ...]
    closes: int = 0


def parent_of(path: str) -> str:
    """The path of a znode's parent."""
    return path.rpartition("/")[0]


class Tree:
    """Znodes by path; `children` by path of the parent, in the order of creation."""

    def __init__(self) -> None:
        self.nodes: dict[str, Znode] = {"": Znode(b"", Stat(0, 0, 0, 0, 0, 0))}
        self.children: dict[str, dict[str, None]] = {"": {}}

    def apply(self, transaction: Transaction) -> None:
        """Carry out what the leader decided."""
        for change in transaction.changes:
            path, node = change.path, change.node
            parent, _, name = path.rpartition("/")
            if node is None:
                self.nodes.pop(path, None)
                self.children.pop(path, None)
                self.children[parent].pop(name, None)
            else:
                if path not in self.nodes:
                    self.children[path] = {}
                    if path:
                        self.children[parent][name] = None
                self.nodes[path] = node

    def plan(self, zxid: int, operations: Sequence[Operation], session: int) -> Transaction:
        """A transaction's changes; raises `Refused` as ZooKeeper's PrepRequestProcessor does."""
        draft: dict[str, Znode | None] = {}
        fired: dict[str, tuple[bool, bool]] = {}
        for index, operation in enumerate(operations):
            self._plan_one(_Draft(self, draft, fired, zxid, session, index), operation)
        return Transaction(
            zxid,
            tuple(
                Change(path, node, *fired.get(path, (False, False))) for path, node in draft.items()
            ),
        )

    @staticmethod
    def _plan_one(draft: _Draft, operation: Operation) -> None:
        if isinstance(operation, Create):
            draft.create(operation)
            return
        node = draft.find(operation.path)
        if node is None:
            raise Refused(draft.place, Reason(missing=True))
        if operation.version not in (-1, node.stat.version):
            raise Refused(draft.place, Reason(version=True))
        if isinstance(operation, Write):
            draft.write(operation, node)
        elif isinstance(operation, Delete):
            draft.delete(operation.path)
        else:
            assert isinstance(operation, VersionGuard)

    def below(self, path: str) -> list[str]:
        """A znode and all below it, the lowest first."""
        found = [
            lower for name in self.children.get(path, {}) for lower in self.below(f"{path}/{name}")
        ]
        return [*found, path] if path in self.nodes else found


class _Draft(NamedTuple):
    """A transaction in the making."""

    tree: Tree
    nodes: dict[str, Znode | None]
    fired: dict[str, tuple[bool, bool]]
    zxid: int
    session: int
    place: int

    def find(self, path: str) -> Znode | None:
        return self.nodes[path] if path in self.nodes else self.tree.nodes.get(path)

    def put(
        self, path: str, node: Znode | None, *, data: bool = False, children: bool = False
    ) -> None:
        before = self.fired.get(path, (False, False))
        self.nodes.pop(path, None)
        self.nodes[path] = node
        self.fired[path] = (before[0] or data, before[1] or children)

    def create(self, operation: Create) -> None:
        parent = self.find(parent_of(operation.path))
        if parent is None:
            raise Refused(self.place, Reason(missing=True))
        if self.find(operation.path) is not None:
            raise Refused(self.place, Reason(exists=True))
        self._count_child(operation.path, parent)
        owner = self.session if operation.ephemeral else 0
        self.put(
            operation.path,
            Znode(operation.data, Stat(self.zxid, self.zxid, self.zxid, 0, 0, owner)),
            data=True,
        )

    def write(self, operation: Write, node: Znode) -> None:
        stat = node.stat._replace(mzxid=self.zxid, version=node.stat.version + 1)
        self.put(operation.path, Znode(operation.data, stat), data=True)

    def delete(self, path: str) -> None:
        parent = self.find(parent_of(path))
        if parent is not None:
            self._count_child(path, parent)
        self.put(path, None, data=True, children=True)

    def _count_child(self, path: str, parent: Znode) -> None:
        stat = parent.stat._replace(cversion=parent.stat.cversion + 1, pzxid=self.zxid)
        self.put(parent_of(path), Znode(parent.data, stat), children=True)
