"""Whether the members agree with each other, and with what this machine is told to be.

Pure: imports no I/O; the time of each look is handed in, as seconds since the epoch by this machine's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeVar

from maglev0.core import settings as agreed
from maglev0.core.settings import Settings, Wishes
from maglev0.core.text import printable
from maglev0.core.view import ACTIVE, DRY_RUN, FAILING, Member, name_of
from maglev0.operator.doctor.arp.judge import Peer
from maglev0.operator.doctor.finding import Finding, fault, judged, note, warning
from maglev0.operator.status import page
from maglev0.protocol.lease import terms
from maglev0.telemetry.observer import Observation

MEMBERS = "members"
OWNERS = "one owner each"
IDENTITIES = "ids and addresses"
STRANGERS = "znodes among the members'"
FAMILIES = "hash families"
VERSIONS = "versions"
STATES = "the members' states"
REPORTS = "the members' reports"
LEASES = "the members' leases"
CLOCKS = "the members' clocks"
SESSIONS = "the members' sessions"
ORDERS = "standing orders"
SETTINGS = "this machine's settings"
MACS = "cluster MACs"
STALE_S = 15.0  # a daemon reports every 3 to 6 s, and at once what is new
OFFSET_S = 2.0  # what a second's rounding, a slow write and our own look may add up to
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class ClusterReading:
    """What was seen of a cluster, and when."""

    seen: Observation
    at_s: float


@dataclass(frozen=True)
class Own:
    """The machine that looks, as its interface and its configuration tell; `wishes` are the settings that it asks for, None where it names none."""

    mac: str
    my_id: int | None
    wishes: Wishes | None


def member_here(seen: Observation, mac: str) -> Member | None:
    """The member that runs on this machine, by the MAC of its traffic interface."""
    return next((member for member in seen.view.members if mac and member.mac == mac), None)


def serving(seen: Observation, mac: str) -> bool:
    """Whether this machine is a member that serves."""
    here = member_here(seen, mac)
    return here is not None and here.state != DRY_RUN


def peers(seen: Observation, mac: str) -> tuple[Peer, ...]:
    """The other members that can be asked by ARP. Of several with one address the first is."""
    others = {
        IPv4Address(member.address): member
        for member in reversed(seen.view.members)
        if member.mac != mac and _is_address(member.address)
    }
    return tuple(
        Peer(member.name, address, member.mac, member.state != DRY_RUN)
        for address, member in sorted(others.items())
    )


def _is_address(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def is_suspect(look: ClusterReading) -> bool:
    """Whether a second look, a report's time later, is needed to tell a fault from a moment."""
    seen = look.seen
    reports = [seen.reports.get(member.id) for member in seen.view.members]
    return not seen.findings.is_sound or any(
        report is None or report.lease_left_s <= 0 or look.at_s - report.read_at > STALE_S
        for report in reports
    )


def judge(first: ClusterReading, last: ClusterReading, own: Own, vip: IPv4Address) -> list[Finding]:
    """Judge what two looks have in common; they may be one and the same."""
    seen = last.seen
    members = seen.view.members
    return [
        *judged(MEMBERS, f"{len(members)} are there", *_members(seen)),
        *judged(OWNERS, "every node number has one owner", *_owners(first, last, vip)),
        *judged(IDENTITIES, "no two members share one", *_identities(members, own)),
        *judged(
            STRANGERS,
            "there are none",
            *(_stranger(child.name, child.reason) for child in seen.ignored),
        ),
        *judged(FAMILIES, f"all hash as {seen.settings.hash_family} does", *_families(seen)),
        *judged(VERSIONS, "all run the same", _versions(seen)),
        *judged(STATES, "all serve", *_states(seen)),
        *judged(REPORTS, "all are fresh", *_reports(first, last)),
        *judged(LEASES, "all run", *_leases(first, last)),
        *judged(
            CLOCKS, f"all agree with this machine's within {OFFSET_S:g} s", *_clocks(first, last)
        ),
        *judged(SESSIONS, "all outlast the lease", *_sessions(seen)),
        *judged(ORDERS, "there are none", *_orders(seen)),
        *judged(SETTINGS, "nothing contradicts the cluster", *_settings(own, seen.settings)),
    ]


def _members(seen: Observation) -> Iterator[Finding]:
    if not seen.view.members:
        yield note(MEMBERS, "no member is there", "nobody answers", "start a daemon")
    elif not seen.view.weights(dry_run=False):
        yield fault(
            MEMBERS,
            "no member serves",
            "nobody answers: all drain, or have weight 0, or run dry",
            "maglev0 undrain ID, or maglev0 weight ID 1",
        )
    elif len(seen.view.members) == 1:
        yield note(
            MEMBERS, f"{seen.view.members[0].name} is alone", "nobody takes its share when it fails"
        )


def _owners(first: ClusterReading, last: ClusterReading, vip: IPv4Address) -> Iterator[Finding]:
    before = set(page.status(vip, first.seen, first.at_s).alarms)
    for alarm in page.status(vip, last.seen, last.at_s).alarms:
        if alarm in before and any(last.seen.owners):
            yield fault(
                OWNERS,
                alarm,
                "clients are answered twice, or not at all",
                "maglev0 status names the nodes: restart their daemons, one by one",
            )


def _identities(members: Iterable[Member], own: Own) -> Iterator[Finding]:
    for mac, sharing in _shared(members, lambda member: member.mac).items():
        why = "switches deliver what is meant for one of them to the other; machines that were cloned need addresses of their own"
        yield fault(
            IDENTITIES,
            f"{_names(sharing)} have the same MAC address {mac}",
            why,
            f"ip link set dev … address …, on all but one of {_hosts(sharing)}",
        )
    for address, sharing in _shared(members, lambda member: member.address).items():
        why = "each takes the other's traffic in turn"
        yield fault(
            IDENTITIES,
            f"{_names(sharing)} have the same address {address}",
            why,
            f"change it on all but one of {_hosts(sharing)}",
        )
    for member in members:
        if member.id == own.my_id and own.mac and member.mac != own.mac:
            what = f"id {member.id} is this machine's by its configuration, and {printable(member.host)} ({member.mac}) holds it"
            yield fault(
                IDENTITIES,
                what,
                "a daemon with a taken id does not start",
                "give this machine a --my-id of its own",
            )


def _shared(members: Iterable[Member], key: Callable[[Member], _Key]) -> dict[_Key, list[Member]]:
    found: dict[_Key, list[Member]] = {}
    for member in members:
        found.setdefault(key(member), []).append(member)
    return {value: sharing for value, sharing in found.items() if value and len(sharing) > 1}


def _names(members: Iterable[Member]) -> str:
    return " and ".join(member.name for member in members)


def _hosts(members: Iterable[Member]) -> str:
    return ", ".join(sorted({printable(member.host) for member in members}))


def _stranger(name: str, reason: str) -> Finding:
    what = f"{printable(name[:64])} is not counted: {reason}"
    return warning(
        STRANGERS,
        what,
        "whoever wrote it takes no part; a daemon of another version, or an intruder",
        "start that daemon anew, or delete the znode",
    )


def _families(seen: Observation) -> Iterator[Finding]:
    for member in seen.view.members:
        if member.dataplane is not seen.settings.hash_family and member.state != DRY_RUN:
            what = f"{member.name} hashes as {member.dataplane} does, the cluster as {seen.settings.hash_family}"
            why = "it answers for other clients than its share has: some are answered twice, some never"
            yield fault(
                FAMILIES,
                what,
                why,
                f"on {printable(member.host)}: --dataplane={seen.settings.hash_family}",
            )


def _versions(seen: Observation) -> Finding | None:
    versions = sorted({report.version for report in seen.reports.values()})
    if len(versions) < 2:
        return None
    return note(
        VERSIONS,
        f"members run {' and '.join(versions)}",
        "fine while they are upgraded, one by one",
    )


def _states(seen: Observation) -> Iterator[Finding]:
    for member in seen.view.members:
        report = seen.reports.get(member.id)
        problems = "; ".join(report.problems) if report is not None else ""
        if report is not None and not report.able:
            yield fault(
                STATES,
                f"{member.name} cannot serve: {problems}",
                "its share goes unanswered",
                f"on {printable(member.host)}: maglev0 doctor",
            )
        elif member.state == FAILING:
            yield warning(
                STATES,
                f"{member.name} fails its checks: {problems}",
                "others serve its share",
                f"mend the service on {printable(member.host)}",
            )
        elif problems:
            yield warning(
                STATES,
                f"{member.name} has trouble: {problems}",
                "it still serves",
                f"on {printable(member.host)}: maglev0 doctor",
            )
        elif member.state != ACTIVE or not member.weight:
            yield note(
                STATES,
                f"{member.name} is {member.state}, its weight {member.weight}",
                "it owns nothing",
            )


def _reports(first: ClusterReading, last: ClusterReading) -> Iterator[Finding]:
    for member in last.seen.view.members:
        here, mend = (
            f"systemctl restart maglev0, on {printable(member.host)}",
            "nobody knows what its kernel holds; its daemon is of another version, or hangs",
        )
        before, now = first.seen.reports.get(member.id), last.seen.reports.get(member.id)
        if now is None and before is None and member in first.seen.view.members:
            yield warning(REPORTS, f"{member.name} reports nothing", mend, here)
        elif (
            now is not None
            and last.at_s - now.read_at > STALE_S
            and before is not None
            and before.read_at == now.read_at
        ):
            yield warning(
                REPORTS,
                f"{member.name} has reported nothing for {last.at_s - now.read_at:.0f} s",
                mend,
                here,
            )


def _leases(first: ClusterReading, last: ClusterReading) -> Iterator[Finding]:
    for member in last.seen.view.members:
        before, now = first.seen.reports.get(member.id), last.seen.reports.get(member.id)
        over = (
            before is not None
            and now is not None
            and before.lease_left_s <= 0
            and now.lease_left_s <= 0
        )
        if over and member.state in (ACTIVE, FAILING) and member.weight:
            what = f"the lease of {member.name} is over"
            yield fault(
                LEASES,
                what,
                "its kernel accepts no new flow, and nobody else does in its share",
                f"on {printable(member.host)}: journalctl -u 'maglev0*'",
            )


def _clocks(first: ClusterReading, last: ClusterReading) -> Iterator[Finding]:
    why = (
        "their logs do not fit together, and setting it right in one step ends a lease for a moment"
    )
    for member in last.seen.view.members:
        before, now = first.seen.reports.get(member.id), last.seen.reports.get(member.id)
        ahead_s = max(
            member.start_time - last.at_s, (now.read_at - last.at_s) if now is not None else 0.0
        )
        fresh = before is not None and now is not None and before.read_at != now.read_at
        behind_s = last.at_s - now.read_at if now is not None and fresh else 0.0
        mend = f"apt install chrony, on {printable(member.host)} or here"
        if ahead_s > OFFSET_S:
            yield warning(
                CLOCKS,
                f"the clock of {member.name} is some {ahead_s:.0f} s ahead of this machine's",
                why,
                mend,
            )
        elif behind_s > STALE_S:
            yield warning(
                CLOCKS,
                f"the clock of {member.name} is some {behind_s:.0f} s behind this machine's",
                why,
                mend,
            )


def _sessions(seen: Observation) -> Iterator[Finding]:
    lease = terms(seen.settings.lease_ms)
    for member in seen.view.members:
        if lease.over_s + lease.interval_s > member.session_timeout_s and member.state != DRY_RUN:
            what = f"the session of {member.name} has {member.session_timeout_s:g} s, and the cluster's lease {lease.length_s:g} s"
            why = "should it crash, its share is taken over after the lease, not after the session"
            yield warning(
                SESSIONS,
                what,
                why,
                f"the same --session-timeout on all nodes, {1.5 * lease.length_s:.2g} or more",
            )


def _orders(seen: Observation) -> Iterator[Finding]:
    members = {member.id for member in seen.view.members}
    for member, order in sorted(seen.orders.items()):
        absent = "" if member in members else ", which is no member now"
        if order.drained:
            yield note(
                ORDERS,
                f"{name_of(member)}{absent} is drained by an operator's order",
                "it owns nothing until that is taken back",
                f"maglev0 undrain {member}",
            )
        if order.weight is not None:
            yield note(
                ORDERS,
                f"{name_of(member)}{absent} has weight {order.weight} by an operator's order",
                "its own --weight does not count",
            )


def _settings(own: Own, found: Settings) -> Iterator[Finding]:
    if own.wishes is not None:
        for contradiction in agreed.contradictions(own.wishes, found):
            why = "a daemon whose flags contradict the cluster does not start"
            yield fault(
                SETTINGS, contradiction, why, "leave the flag out, or give the cluster's value"
            )
    if own.my_id is not None and own.my_id > found.total_nodes:
        what = f"--my-id={own.my_id} is beyond the cluster's {found.total_nodes} node numbers"
        yield fault(
            SETTINGS,
            what,
            "a daemon with such an id does not start",
            f"--my-id from 1 to {found.total_nodes}",
        )


def judge_macs(macs: Mapping[str, str]) -> list[Finding]:
    """Judge the cluster MACs of all VIPs that ZooKeeper knows, by VIP."""
    by_mac: dict[str, list[str]] = {}
    for vip, mac in sorted(macs.items()):
        by_mac.setdefault(mac, []).append(vip)
    shared = [
        warning(
            MACS,
            f"{' and '.join(vips)} have the same cluster MAC {mac}",
            "the first of them to leave a machine stops its network card from listening for the others",
            "found all but one of these clusters anew, without --cluster-mac",
        )
        for mac, vips in by_mac.items()
        if len(vips) > 1
    ]
    return judged(MACS, "every VIP has one of its own", *shared)
