"""The cluster's settings in ZooKeeper: found or founded, and restored when somebody deletes them.

Pure: imports no I/O; it reads and writes through `ports.zookeeper.ZooKeeper`. Running members
restore the settings.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from maglev0.core import settings as agreed
from maglev0.core import view as views
from maglev0.core.ip_family import Vip
from maglev0.core.settings import Settings, Wishes
from maglev0.errors import ConfigError, ZooKeeperError
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import (
    Create,
    Delete,
    Operation,
    Refused,
    VersionGuard,
    Write,
    Znode,
    ZooKeeper,
)

log = logging.getLogger(__name__)

# Looks at settings that a running member may be about to restore: that takes a round trip, and more
# on a starved machine.
RESTORE_LOOKS = 5


class Unsettled(Exception):  # noqa: N818  no error: the caller tries again at the next wake, or after a moment
    """Others are changing what was read or written; nothing was decided.

    The caller tries again at the next wake, or after a moment.
    """


class Found(NamedTuple):
    """The settings znode as read.

    `settings` is its value; where there is none, `problem` says why. `version` is what transactions
    check, `mzxid` its last change. What is not `ours` (see `ports.zookeeper.Znode`) has no value.
    """

    settings: Settings | None
    problem: str
    version: int
    mzxid: int
    ours: bool = True


class Founder(NamedTuple):
    """What a node brings along that may have to write the settings.

    `seed` is used where no flag gives one. `former` are the settings that an earlier daemon of this
    member ran with, whose session lives on: it may be the last to know them.
    """

    vip: Vip
    session_timeout_s: float
    seed: int
    former: Settings | None = None


class Agreement:
    """One node's agreement to the settings of one cluster.

    Call `agree` until it returns; then `confirm` whenever the settings may have changed.
    """

    def __init__(self, zookeeper: ZooKeeper, paths: Paths) -> None:
        self._zookeeper = zookeeper
        self._paths = paths
        self._settings: Settings | None = None
        self._looks = 0

    async def agree(self, my_id: int, wishes: Wishes, founder: Founder) -> Settings:
        """Find the cluster's settings or found the cluster, before this node runs.

        Raises ConfigError when a flag contradicts the cluster; ZooKeeperError when the settings
        cannot be read while members run with others; `Disconnected` or `Unsettled` when the caller
        has to try again, a moment later.
        """
        await self.ensure_paths()
        parent_version, living = await self._living()
        found = await self._read()
        if found is not None and not found.ours:
            raise self._foreign(self._paths.settings)
        self._looks += 1
        if self._looks <= RESTORE_LOOKS and _restorable(found, living):
            raise Unsettled
        if (
            found is not None
            and found.settings is not None
            and not agreed.contradictions(wishes, found.settings)
        ):
            agreed.check_id(my_id, found.settings)
            self._settings = found.settings
            return found.settings
        if living and (found is not None or founder.former is None):
            raise self._conflict(found, wishes, sorted(living, key=int))
        wanted = (
            founder.former
            if living and founder.former
            else agreed.first_settings(wishes, founder.vip, founder.session_timeout_s, founder.seed)
        )
        agreed.check_id(my_id, wanted)
        if await self._write(wanted, parent_version, found):
            log.info(
                "%s the cluster's settings under %s",
                "wrote" if found is None else "replaced",
                self._paths.base,
            )
        raise Unsettled

    def _conflict(self, found: Found | None, wishes: Wishes, living: Sequence[str]) -> Exception:
        """Why this node cannot start beside those members, or not yet."""
        names = ", ".join(living)
        if found is None:
            return Unsettled()
        if found.settings is None:
            return ZooKeeperError(
                f"{found.problem}, and members run with others ({names}): "
                "either they restore theirs in a moment, or they run another version of maglev0"
            )
        conflict = ", ".join(agreed.contradictions(wishes, found.settings))
        return ConfigError(
            f"{conflict}: stop the members of {self._paths.base} first ({names}), "
            "or give the cluster's values"
        )

    async def confirm(self, *, registered: bool) -> int:
        """Check that the settings in ZooKeeper are those that this node runs with.

        Returns their version; leaves a watch on them. Where they differ, a member restores them and
        raises `Unsettled`; a node that is no member raises ZooKeeperError.
        """
        if self._settings is None:
            raise ZooKeeperError("cannot join: the settings of the cluster were never read")
        found = await self._read()
        if found is not None and found.settings == self._settings:
            return found.version
        if found is not None and found.settings is not None and not registered:
            changes = ", ".join(agreed.differences(self._settings, found.settings))
            raise ZooKeeperError(
                f"the cluster's settings changed while this node was away ({changes}): "
                "start it again to adopt them"
            )
        await self.ensure_paths()
        parent_version, living = await self._living()
        if found is not None and found.problem and living and not registered:
            raise ZooKeeperError(
                f"{found.problem}, and members run with them: they run another version of maglev0"
            )
        if await self._write(self._settings, parent_version, found):
            log.warning(
                "somebody deleted or changed %s: restored",
                self._paths.settings,
            )
        raise Unsettled

    async def ensure_paths(self) -> None:
        """Create the parents of the members' znodes where they are missing.

        Raises ZooKeeperError where others may change this cluster's own part of them: they could
        delete what lies below.
        """
        parts = self._paths.base.split("/")[1:]
        above = ["/" + "/".join(parts[:count]) for count in range(1, len(parts))]
        for path in above:
            await self._ensured(path)
        for path in (self._paths.base, *self._paths.parents):
            if not (await self._ensured(path)).ours:
                raise self._foreign(path)

    async def _ensured(self, path: str) -> Znode:
        node = await self._zookeeper.get(path)
        if node is None:
            # Refused where it exists by now, or somebody deletes while we create.
            with suppress(Refused):
                await self._zookeeper.commit([Create(path, b"", ephemeral=False)])
            node = await self._zookeeper.get(path)
        if node is None:
            raise Unsettled
        return node

    def _foreign(self, path: str) -> ZooKeeperError:
        delete = f"zkCli.sh: deleteall {self._paths.base}"
        fix = f"correct --zk-auth, or stop all daemons of this cluster and delete it ({delete})"
        return ZooKeeperError(
            f"{path} is not this cluster's alone, by its ACL, or was not always: {fix}"
        )

    async def _read(self) -> Found | None:
        path = self._paths.settings
        node = await self._zookeeper.get(path, watch=True)
        if node is None:
            return None
        version, mzxid = node.stat.version, node.stat.mzxid
        if not node.ours:
            return Found(
                None,
                f"the settings in {path} are not this cluster's alone, by their ACL",
                version,
                mzxid,
                ours=False,
            )
        try:
            return Found(agreed.decode(node.data), "", version, mzxid)
        except ValueError as error:
            return Found(None, f"the settings in {path} cannot be read ({error})", version, mzxid)

    async def _write(self, settings: Settings, parent_version: int, found: Found | None) -> bool:
        """Write the settings; return whether they were written.

        They are not when somebody joined since `parent_version` was read, or wrote since `found`
        was.
        """
        data, path = settings.encode(), self._paths.settings
        writes: list[Operation] = [Create(path, data, ephemeral=False)]
        if found is not None:
            # This node may lack the right to correct the ACL. The parent is ours, so this node can
            # replace the znode.
            writes = (
                [Write(path, data, found.version)]
                if found.ours
                else [Delete(path, found.version), *writes]
            )
        with suppress(Refused):
            await self._zookeeper.commit(
                [VersionGuard(self._paths.members, parent_version), *writes]
            )
            return True
        return False

    async def _living(self) -> tuple[int, dict[str, Znode]]:
        """Read the parent's version, and the members' znodes that live sessions hold.

        Their data does not matter.
        """
        listed = await self._zookeeper.children(self._paths.members)
        if listed is None:
            raise Unsettled
        names, stat = listed
        ids, _foreign = views.candidate_ids(names, views.MAX_ID)
        nodes = await self._zookeeper.get_all([f"{self._paths.members}/{name}" for name in ids])
        return stat.version, {
            name: node
            for name, node in zip(ids, nodes, strict=True)
            if node is not None and node.stat.owner
        }


def _restorable(found: Found | None, living: dict[str, Znode]) -> bool:
    """Whether a member may be about to write the settings that it runs with.

    That is so when they are gone, or younger than a member that joined under others.
    """
    return any(found is None or node.stat.mzxid < found.mzxid for node in living.values())
