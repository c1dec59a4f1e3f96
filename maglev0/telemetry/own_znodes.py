"""The ephemeral znodes that one process publishes, which live as long as its session."""

from __future__ import annotations

from contextlib import suppress

from maglev0.protocol.ports.zookeeper import Create, Delete, Operation, Refused, Write, ZooKeeper

ATTEMPTS = 2  # the first may meet a znode that others changed since this session wrote it


class OwnZnodes:
    """Writes ephemeral znodes of the present session.

    A former session, of this process or of another one, may have left a znode at the same path, and
    it vanishes with that session. So a write names the version that this session wrote or read. A
    znode of another session is deleted and created again in one transaction.
    """

    def __init__(self, zookeeper: ZooKeeper) -> None:
        self._zookeeper = zookeeper
        self._versions: dict[str, tuple[int, int]] = {}  # by path: session and version

    async def put(self, path: str, data: bytes) -> bool:
        """Write a znode; return whether it has this data now and belongs to this session.

        Raises `Disconnected`.
        """
        for _attempt in range(ATTEMPTS):
            session = self._zookeeper.session
            operations, version = await self._writing(path, data, session)
            with suppress(Refused):
                await self._zookeeper.commit(operations)
                if self._zookeeper.session != session:
                    return False
                self._versions[path] = session, version
                return True
        return False

    async def _writing(self, path: str, data: bytes, session: int) -> tuple[list[Operation], int]:
        """The transaction that writes the znode, and the znode's version after it."""
        known = self._versions.pop(path, None)
        if known is not None and known[0] == session:
            return [Write(path, data, known[1])], known[1] + 1
        create = Create(path, data, ephemeral=True)
        found = await self._zookeeper.get(path)
        if found is None:
            return [create], 0
        if found.stat.owner != session:
            return [Delete(path, found.stat.version), create], 0
        return [Write(path, data, found.stat.version)], found.stat.version + 1

    async def remove(self, path: str) -> None:
        """Delete a znode if it belongs to this session. Raises `Disconnected`."""
        self._versions.pop(path, None)
        found = await self._zookeeper.get(path)
        if found is not None and found.stat.owner == self._zookeeper.session:
            with suppress(Refused):
                await self._zookeeper.commit([Delete(path, found.stat.version)])
