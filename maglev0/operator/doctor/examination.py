"""Runs an examination: reads everything in order, and gives it to the judges."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address

from maglev0.config.configuration import Config
from maglev0.coordination import credentials, diagnosis
from maglev0.coordination.session import Session
from maglev0.core import settings
from maglev0.core.service import HashFamily
from maglev0.core.settings import LEASE_SHARE, Settings, Wishes
from maglev0.core.text import printable
from maglev0.dataplane import select
from maglev0.dataplane.clusterip import proc_file
from maglev0.dataplane.host import interface as interfaces_
from maglev0.dataplane.host.interface import Interface
from maglev0.errors import DataplaneError, UnavailableError, ZooKeeperError
from maglev0.operator import cluster_address
from maglev0.operator.cluster_address import ClusterAddress
from maglev0.operator.doctor import cluster_state
from maglev0.operator.doctor.arp import judge as arp
from maglev0.operator.doctor.arp.read import Wire
from maglev0.operator.doctor.cluster_state import Own
from maglev0.operator.doctor.ensemble import judge as ensemble
from maglev0.operator.doctor.ensemble import read as servers
from maglev0.operator.doctor.filters import judge as filters
from maglev0.operator.doctor.filters import read as netfilter
from maglev0.operator.doctor.finding import Finding, fault, judged, left_out, note
from maglev0.operator.doctor.machine import judge as kernel
from maglev0.operator.doctor.machine import read as machine
from maglev0.operator.doctor.member_state import ClusterReading
from maglev0.operator.doctor.network import judge as network
from maglev0.operator.doctor.network import read as interfaces
from maglev0.operator.doctor.network.judge import Wanted
from maglev0.protocol.lease import terms
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import Disconnected
from maglev0.runtime.waiting import in_thread
from maglev0.telemetry.observer import observe

ZOOKEEPER = "ZooKeeper"
CLUSTER = "cluster"
DEFAULT_SESSION_S = 4.0  # the daemon's default
MAX_CLUSTERS = 1024
SECOND_LOOK_S = 6.0  # within that time every working daemon has reported again


@dataclass(frozen=True)
class DoctorRequest:
    """What the command line and the configuration file ask for.

    `config` is the configuration of this machine's daemon, None if there is no file.
    """

    address: ClusterAddress
    interface: str | None
    my_id: int | None
    session_timeout_s: float | None
    probe_for_s: float
    config: Config | None


async def run_checks(asked: DoctorRequest) -> list[Finding]:
    """Run all checks; returns the findings, each once."""
    before = machine.counts()
    vips = asked.address.vips
    found = kernel.judge(machine.read(vips[0]))
    async with AsyncExitStack() as stack:
        zookeeper = await _session(stack, asked, found)
        for vip in vips:
            found += await _vip(asked, zookeeper, vip)
        if zookeeper is not None:
            found += await _macs(zookeeper, asked.address)
    found += kernel.moved(before, machine.counts(), await _name(asked, vips[0]))
    return list(dict.fromkeys(found))


async def _session(
    stack: AsyncExitStack, asked: DoctorRequest, found: list[Finding]
) -> Session | None:
    zk, tls = asked.address.zk, credentials.tls(asked.address.access)
    try:
        # If no server answers, waiting for a session is useless.
        serves = await servers.any_serves(zk, tls)
        session = (
            await stack.enter_async_context(cluster_address.session(asked.address))
            if serves
            else None
        )
        problem = "" if serves else await diagnosis.why_no_session(zk, tls)
    except ZooKeeperError as error:
        session, problem = None, str(error)
    why = "without it no node has a lease, and none accepts a new connection"
    fix = "start it, or correct --zk; checks that need it were left out"
    found += judged(
        ZOOKEEPER, f"{zk} grants sessions", fault(ZOOKEEPER, problem, why, fix) if problem else None
    )
    return session


async def _vip(asked: DoctorRequest, zookeeper: Session | None, vip: IPv4Address) -> list[Finding]:
    found: list[Finding] = []
    where = await _interface(asked, vip, found)
    first = (
        None if zookeeper is None else await _first_look(zookeeper, asked.address.paths(vip), found)
    )
    agreed = None if first is None else first.seen.settings
    found += await _zookeeper(asked, zookeeper, asked.address.paths(vip), agreed)
    if where is not None:
        found += await _here(asked, where, vip, first, knows=zookeeper is not None)
    if zookeeper is not None and first is not None:
        mac = "" if where is None else where.mac
        last = await _last_look(zookeeper, asked.address.paths(vip), first)
        found += cluster_state.judge(first, last, Own(mac, asked.my_id, _wishes(asked, vip)), vip)
    return found


async def _interface(
    asked: DoctorRequest, vip: IPv4Address, found: list[Finding]
) -> Interface | None:
    try:
        return await interfaces_.find(vip, asked.interface)
    except DataplaneError as error:
        found.append(
            fault(
                network.INTERFACE,
                str(error),
                "without it the doctor cannot examine the network",
                "name it with --interface",
            )
        )
        return None


async def _name(asked: DoctorRequest, vip: IPv4Address) -> str:
    found = await _interface(asked, vip, [])
    return "IF" if found is None else found.name


async def _first_look(
    zookeeper: Session, paths: Paths, found: list[Finding]
) -> ClusterReading | None:
    try:
        if await zookeeper.get(paths.settings) is None:
            found.append(
                note(
                    CLUSTER,
                    f"there is no cluster at {paths.base} yet",
                    "the first daemon creates it",
                    "systemctl start maglev0, or correct --zk and --cluster-ip",
                )
            )
            return None
        return ClusterReading(await observe(zookeeper, paths), time.time())
    except (ZooKeeperError, Disconnected) as error:
        found.append(
            fault(
                CLUSTER,
                str(error) or "lost the connection to ZooKeeper",
                "the doctor could not examine the members",
                "maglev0 status",
            )
        )
        return None


async def _last_look(zookeeper: Session, paths: Paths, first: ClusterReading) -> ClusterReading:
    """A second reading, after a pause if the first is suspect; the first if ZooKeeper is gone."""
    try:
        look = ClusterReading(await observe(zookeeper, paths), time.time())
        if cluster_state.is_suspect(first) or cluster_state.is_suspect(look):
            await asyncio.sleep(SECOND_LOOK_S)
            look = ClusterReading(await observe(zookeeper, paths), time.time())
    except (ZooKeeperError, Disconnected):
        return first
    return look


def _wishes(asked: DoctorRequest, vip: IPv4Address) -> Wishes | None:
    if asked.config is None:
        return None
    try:
        return asked.config.wishes(select.runnable(vip, asked.config.dataplane))
    except UnavailableError:
        return None


async def _zookeeper(
    asked: DoctorRequest, zookeeper: Session | None, paths: Paths, agreed: Settings | None
) -> list[Finding]:
    """Judge the sessions that the servers grant and the time of writes, against the lease."""
    lease = None if agreed is None else terms(agreed.lease_ms)
    asked_s = asked.session_timeout_s or (
        DEFAULT_SESSION_S if lease is None else round(lease.length_s / LEASE_SHARE, 2)
    )
    found = await servers.ask(asked.address.zk, credentials.tls(asked.address.access), asked_s)
    access = asked.address.access
    may_change = ensemble.judge_access(
        identity=access.identity_scheme is not None, tls=access.ca is not None
    )
    times = [*ensemble.judge(found), *may_change, *ensemble.judge_times(found, lease)]
    if zookeeper is None or lease is None:
        return times
    node = await zookeeper.get(paths.settings)
    return times + ensemble.judge_writes(
        [] if node is None else await servers.writes_s(zookeeper, paths, node.stat.version), lease
    )


async def _here(
    asked: DoctorRequest,
    where: Interface,
    vip: IPv4Address,
    first: ClusterReading | None,
    *,
    knows: bool,
) -> list[Finding]:
    """Judge this machine's place in the network, and what the network answers to ARP."""
    cluster_mac = _cluster_mac(asked, vip, first)
    serving = (
        (first is not None and cluster_state.serving(first.seen, where.mac)) if knows else None
    )
    found: list[Finding] = []
    rules = _filters(vip, where.name, cluster_mac, found)
    wanted = Wanted(
        vip,
        cluster_mac,
        serving,
        first is not None and first.seen.settings.hash_family is HashFamily.CLUSTERIP,
    )
    try:
        found += network.judge(await interfaces.read(vip, where, cluster_mac, rules=rules), wanted)
    except DataplaneError as error:
        found.append(left_out(network.INTERFACE, str(error)))
    peers = () if first is None else cluster_state.peers(first.seen, where.mac)
    try:
        wire = Wire(where, vip, cluster_mac, peers)
        tally = await in_thread(lambda: wire.ask(asked.probe_for_s, listen=not serving))
        return found + arp.judge(tally, wire.peers, vip, cluster_mac)
    except DataplaneError as error:
        return [
            *found,
            *(
                left_out(check, str(error))
                for check in (arp.VIP_MAC, arp.NEIGHBOURS, arp.THERE, arp.HERE)
            ),
        ]


def _cluster_mac(asked: DoctorRequest, vip: IPv4Address, first: ClusterReading | None) -> str:
    if first is not None:
        return first.seen.settings.cluster_mac
    return (asked.config and asked.config.cluster_mac) or settings.derived_mac(vip)


def _filters(
    vip: IPv4Address, interface: str, cluster_mac: str, found: list[Finding]
) -> bool | None:
    """Judge the packet filters of other programs.

    Returns whether the daemon's own rules are loaded, None if they cannot be read.
    """
    try:
        rules = netfilter.read(vip)
    except DataplaneError as error:
        found += [
            left_out(check, str(error))
            for check in (filters.DROPS, filters.ADDRESSES, filters.UNTRACKED)
        ]
        return None
    found += filters.judge(rules.others, vip, interface, cluster_mac)
    return rules.ours or proc_file.is_set_up(vip)


async def _macs(zookeeper: Session, asked: ClusterAddress) -> list[Finding]:
    """Judge the cluster MACs of all clusters."""
    base = f"{asked.zk.chroot}/maglev0"
    macs: dict[str, str] = {}
    try:
        listed = await zookeeper.children(base)
        names = [] if listed is None else sorted(listed[0])[:MAX_CLUSTERS]
        for name, node in zip(
            names,
            await zookeeper.get_all([f"{base}/{name}/settings" for name in names]),
            strict=True,
        ):
            with suppress(ValueError):
                if node is not None and await _has_members(zookeeper, f"{base}/{name}"):
                    macs[printable(name)] = settings.decode(node.data).cluster_mac
    except (ZooKeeperError, Disconnected) as error:
        return [left_out(cluster_state.MACS, str(error) or "lost the connection to ZooKeeper")]
    return cluster_state.judge_macs(macs)


async def _has_members(zookeeper: Session, base: str) -> bool:
    """Whether the cluster there has members."""
    listed = await zookeeper.children(Paths(base).members)
    return listed is not None and bool(listed[0])
