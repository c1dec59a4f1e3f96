"""The cluster as an observer sees it in ZooKeeper: members, orders, and what their kernels hold.

Pure: imports no I/O; it reads through the port `ZooKeeper`. It writes nothing and leaves no watch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from maglev0.core import settings, table
from maglev0.core import view as views
from maglev0.core.settings import Settings
from maglev0.core.view import DRY_RUN, Child, Ignored, View
from maglev0.errors import ZooKeeperError
from maglev0.protocol import orders
from maglev0.protocol.handover import Ack
from maglev0.protocol.membership import LeaseZnode, decode_ack, decode_lease, view_id
from maglev0.protocol.orders import Order
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import Znode, ZooKeeper
from maglev0.telemetry import audit, node_report
from maglev0.telemetry.audit import Findings
from maglev0.telemetry.node_report import NodeReport

_Record = TypeVar("_Record")
READ_ATTEMPTS = 10  # to read a view that does not change meanwhile; then the last one is taken


@dataclass(frozen=True)
class Observation:
    """One look at a cluster. All mappings are by member id.

    `owners` is the table that every node computes from the view, by name ("" for no owner).
    `findings` compares what the kernels hold, by the members' reports; right after a change of the
    view it shows the hand-over that is under way.
    """

    settings: Settings
    view: View
    ignored: tuple[Ignored, ...]
    owners: tuple[str, ...]
    acks: Mapping[int, Ack]
    leases: Mapping[int, LeaseZnode]
    orders: Mapping[int, Order]
    reports: Mapping[int, NodeReport]
    findings: Findings

    @property
    def shares(self) -> dict[int, frozenset[int]]:
        """What each member owns by the table; a member that does not serve owns nothing."""
        return shares(self.view, self.owners)

    @property
    def view_number(self) -> int:
        """How many changes the cluster has seen: people name a view by it."""
        return view_number(self.view)


def view_number(view: View) -> int:
    """Return how many changes the parent znode of a view has seen since its creation."""
    return view.id.cversion + view.id.version


def shares(view: View, owners: tuple[str, ...]) -> dict[int, frozenset[int]]:
    """Return what each member owns by that table."""
    found: dict[str, list[int]] = {member.name: [] for member in view.members}
    for number, owner in enumerate(owners, 1):
        if owner in found:
            found[owner].append(number)
    return {member.id: frozenset(found[member.name]) for member in view.members}


def shares_in_kernels(view: View, owners: tuple[str, ...]) -> dict[int, frozenset[int]]:
    """Return the same for members whose kernel carries it out, which a dry run's does not."""
    in_kernels = {member.id for member in view.members if member.state != DRY_RUN}
    return {member: share for member, share in shares(view, owners).items() if member in in_kernels}


async def observe(zookeeper: ZooKeeper, paths: Paths) -> Observation:
    """Look at a cluster once.

    Raises ZooKeeperError if there is none or its settings cannot be read; `Disconnected`.
    """
    agreed = await read_settings(zookeeper, paths)
    view, ignored = await _view(zookeeper, paths, agreed.total_nodes)
    weights = view.weights(dry_run=False)
    owners = table.build(agreed.total_nodes, weights) if weights else ("",) * agreed.total_nodes
    ids = [member.id for member in view.members]
    reports = await read_reports(zookeeper, paths, ids)
    expected = shares_in_kernels(view, owners)
    held = await read_held(zookeeper, paths, audit.differing(expected, reports, agreed.total_nodes))
    return Observation(
        settings=agreed,
        view=view,
        ignored=ignored,
        owners=owners,
        acks=_decoded(await _read(zookeeper, paths.ack, ids), decode_ack),
        leases={
            member: LeaseZnode(decode_lease(node.data), node.stat)
            for member, node in (await _read(zookeeper, paths.lease, ids)).items()
        },
        orders=await read_orders(zookeeper, paths),
        reports=reports,
        findings=compare(agreed.total_nodes, expected, reports, held),
    )


async def read_settings(zookeeper: ZooKeeper, paths: Paths) -> Settings:
    """Read what the nodes of a cluster agree on.

    Raises ZooKeeperError if there is no cluster or its settings cannot be read; `Disconnected`.
    """
    node = await zookeeper.get(paths.settings)
    if node is None:
        raise ZooKeeperError(
            f"no cluster at {paths.base}: start a daemon with the same --zk and --cluster-ip,"
            " or correct those"
        )
    if not node.ours:
        raise ZooKeeperError(
            f"{paths.settings} is not of your identity alone:"
            " give the cluster's --zk-auth or --zk-cert, or none if it has none"
        )
    try:
        return settings.decode(node.data)
    except ValueError as error:
        raise ZooKeeperError(
            f"the settings in {paths.settings} cannot be read ({error})"
        ) from error


async def read_held(
    zookeeper: ZooKeeper, paths: Paths, members: Collection[int]
) -> dict[int, bytes]:
    """Read what these members wrote about their kernels; empty for those that wrote nothing."""
    return dict.fromkeys(members, b"") | {
        member: node.data
        for member, node in (await _read(zookeeper, paths.holding, members)).items()
    }


def compare(
    total_nodes: int,
    expected: Mapping[int, frozenset[int]],
    reports: Mapping[int, NodeReport],
    held: Mapping[int, bytes],
) -> Findings:
    """Compare what kernels hold with the `expected` shares, by member id.

    `expected` leaves out members in a dry run, which hold nothing in a kernel. `held` is the znode
    data of the members whose report names something else than their share. It takes a second for a
    million buckets.
    """
    found: dict[int, frozenset[int]] = {}
    for member, data in held.items():
        with suppress(ValueError):
            found[member] = node_report.unpack(total_nodes, data)
    closed = {
        member: frozenset[int]()
        for member in expected
        if member in reports and reports[member].lease_left_s <= 0
    }
    unknown = (expected.keys() - reports.keys()) | (held.keys() - found.keys())
    return audit.judge(total_nodes, {**expected, **found, **closed}, tuple(sorted(unknown)))


async def read_reports(
    zookeeper: ZooKeeper, paths: Paths, members: Collection[int]
) -> dict[int, NodeReport]:
    """Read the reports of these members; those that cannot be read are left out."""
    return _decoded(await _read(zookeeper, paths.report, members), node_report.decode)


async def read_orders(zookeeper: ZooKeeper, paths: Paths) -> dict[int, Order]:
    """Read all orders, including those for members that are absent."""
    listed = await zookeeper.children(paths.orders)
    names = [] if listed is None else views.candidate_ids(listed[0], views.MAX_ID)[0]
    return _decoded(
        await _read(zookeeper, paths.order, [int(name) for name in names]), orders.decode
    )


async def _view(
    zookeeper: ZooKeeper, paths: Paths, total_nodes: int
) -> tuple[View, tuple[Ignored, ...]]:
    for _attempt in range(READ_ATTEMPTS):
        listed = await zookeeper.children(paths.members)
        if listed is None:
            raise ZooKeeperError(
                f"{paths.members} was deleted: running members create it again, so try again"
            )
        names, stat = listed
        ids, foreign = views.candidate_ids(names, total_nodes)
        nodes = await zookeeper.get_all([f"{paths.members}/{name}" for name in ids])
        after = await zookeeper.get(paths.members)
        if after is not None and view_id(after.stat) == view_id(stat):
            break
    found = [(name, node) for name, node in zip(ids, nodes, strict=True) if node is not None]
    members, ignored = views.read_members(
        Child(name, node.data, node.stat.owner, node.stat.mzxid, node.ours) for name, node in found
    )
    return View(view_id(stat), members), (
        *ignored,
        *(Ignored(name, 0, views.NO_CANDIDATE) for name in foreign),
    )


async def _read(
    zookeeper: ZooKeeper, path: Callable[[int], str], members: Collection[int]
) -> dict[int, Znode]:
    """Read the znodes of these members that no other identity can have written."""
    nodes = await zookeeper.get_all([path(member) for member in members])
    return {
        member: node
        for member, node in zip(members, nodes, strict=True)
        if node is not None and node.ours
    }


def readable(node: Znode | None, decode: Callable[[bytes], _Record | None]) -> _Record | None:
    """Return what a znode says.

    `None` if there is none, if another identity can have written it, or if it cannot be decoded.
    """
    with suppress(ValueError):
        return decode(node.data) if node is not None and node.ours else None
    return None


def _decoded(
    found: Mapping[int, Znode], decode: Callable[[bytes], _Record | None]
) -> dict[int, _Record]:
    """Return what can be decoded; the rest is left out."""
    records = {member: readable(node, decode) for member, node in found.items()}
    return {member: record for member, record in records.items() if record is not None}
