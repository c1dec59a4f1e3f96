"""Clusters as their daemons leave them in ZooKeeper: sound at first, then as a test wants them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

from maglev0.core.service import HashFamily, HashMode
from maglev0.core.settings import Settings
from maglev0.core.view import Member, ViewId
from maglev0.operator.status import page
from maglev0.operator.status.page import Status
from maglev0.protocol.handover import Ack, Phase
from maglev0.protocol.membership import LeaseRecord, view_id
from maglev0.protocol.paths import Paths
from maglev0.telemetry import node_report
from maglev0.telemetry.node_report import NodeReport
from maglev0.telemetry.observer import Observation, observe
from tests.simulation.tree import Tree
from tests.support.direct import DirectZooKeeper, put, remove, run
from tests.support.members import SOMEONE

VIP = IPv4Address("198.51.100.1")
PATHS = Paths(f"/lab/maglev0/{VIP}")
SEED = 123454321
NOW_S = 1.76e9
SETTINGS = Settings(16, HashMode.SOURCE_IP, SEED, HashFamily.NFTABLES, "03:bf:c6:33:64:01", 2000)
SESSION = 4711
SOUND = NodeReport(
    read_at=NOW_S - 1,
    view=None,
    view_at=NOW_S - 100,
    held=0,
    digest="",
    lease_left_s=1.6,
    kept=0,
    flows=12,
    counted_under=None,
    pause_s=1.0,
    able=True,
    problems=(),
    xdp="native",
    version="4.0",
    before={},
)


@dataclass
class Cluster:
    """Znodes of one cluster; every change is there for the next look."""

    tree: Tree
    settings: Settings = SETTINGS

    @classmethod
    def of(cls, *members: int, total_nodes: int = 16) -> Cluster:
        """A sound one with these members."""
        cluster = cls(Tree(), replace(SETTINGS, total_nodes=total_nodes))
        for path in ("/lab", "/lab/maglev0", PATHS.base, *PATHS.parents):
            put(cluster.tree, path)
        put(cluster.tree, PATHS.settings, cluster.settings.encode())
        for member in members:
            put(cluster.tree, PATHS.member(member), member_of(member).encode(), SESSION)
        cluster.settle()
        return cluster

    @property
    def view(self) -> ViewId:
        return view_id(self.tree.nodes[PATHS.members].stat)

    def change(self, member: int, **changes: Any) -> None:
        """Write a member's record and its parent, as the member does."""
        put(
            self.tree, PATHS.member(member), replace(member_of(member), **changes).encode(), SESSION
        )
        put(self.tree, PATHS.members)

    def settle(self, *members: int) -> None:
        """All members, or these, obey the view and hold what the table gives them."""
        seen = self.look()
        for member, share in seen.shares.items():
            if not members or member in members:
                put(self.tree, PATHS.ack(member), Ack(self.view, Phase.RELEASED).encode(), SESSION)
                put(self.tree, PATHS.lease(member), LeaseRecord("kernel", 1, self.view).encode())
                self.hold(member, share)

    def hold(self, member: int, buckets: frozenset[int], **changes: Any) -> None:
        """A member reports that its kernel holds these buckets, under the view."""
        total = self.settings.total_nodes
        report = replace(
            SOUND,
            view=self.view,
            held=len(buckets),
            digest=node_report.digest(total, buckets),
            **changes,
        )
        put(self.tree, PATHS.report(member), report.encode(), SESSION)
        put(self.tree, PATHS.holding(member), node_report.pack(total, buckets), SESSION)

    def report(self, member: int, **changes: Any) -> None:
        """A member reports the same as before except for these changes."""
        report = node_report.decode(self.tree.nodes[PATHS.report(member)].data)
        put(self.tree, PATHS.report(member), replace(report, **changes).encode(), SESSION)

    def gone(self, path: str) -> None:
        """Somebody deletes a znode."""
        remove(self.tree, path)

    def look(self) -> Observation:
        return run(observe(DirectZooKeeper(self.tree, 1), PATHS))

    def status(self, now_s: float = NOW_S) -> Status:
        return page.summarize(VIP, self.look(), now_s)

    def share(self, member: int) -> frozenset[int]:
        """What a member owns by the table."""
        return self.look().shares[member]


def member_of(number: int) -> Member:
    """A member's record."""
    return replace(SOMEONE, id=number, host=f"web{number}", start_time=NOW_S - 7300)
