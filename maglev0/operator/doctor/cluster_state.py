"""Judges whether the members agree with each other and with this machine's configuration. Pure.

It imports no I/O; `telemetry.observer` reads the cluster. `member_state` judges each member.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TypeVar

from maglev0.core import settings as agreed
from maglev0.core.settings import Settings, Wishes
from maglev0.core.text import printable
from maglev0.core.view import DRY_RUN, Ignored, Member
from maglev0.operator.doctor import member_state
from maglev0.operator.doctor.arp.judge import Peer
from maglev0.operator.doctor.finding import Finding, fault, judged, note, warning
from maglev0.operator.doctor.member_state import ClusterReading
from maglev0.operator.status import page
from maglev0.telemetry.observer import Observation

MEMBERS = "members"
OWNERS = "one owner each"
IDENTITIES = "ids and addresses"
STRANGERS = "foreign znodes among the members"
SETTINGS = "this machine's settings"
MACS = "cluster MACs"
_MAX_NAME = 64  # characters of a stranger's znode that a finding shows
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Own:
    """Interface and configuration of this machine.

    `wishes` are the settings that the configuration asks for, None without a configuration.
    """

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
    """The other members that ARP can reach; the first of several with one address."""
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


def is_suspect(reading: ClusterReading) -> bool:
    """Whether a second reading, one report later, must tell a fault from a passing state."""
    seen = reading.seen
    reports = [seen.reports.get(member.id) for member in seen.view.members]
    return not seen.findings.is_sound or any(
        report is None or report.lease_left_s <= 0 or reading.is_stale(report) for report in reports
    )


def judge(first: ClusterReading, last: ClusterReading, own: Own, vip: IPv4Address) -> list[Finding]:
    """Judge what two readings have in common; they may be the same one."""
    seen = last.seen
    members = seen.view.members
    return [
        *judged(MEMBERS, f"{len(members)} members", *_members(seen)),
        *judged(OWNERS, "every bucket has one owner", *_owners(first, last, vip)),
        *judged(IDENTITIES, "all are different", *_identities(members, own)),
        *judged(STRANGERS, "there are none", *map(_stranger, seen.ignored)),
        *member_state.judge(first, last),
        *judged(SETTINGS, "they agree with the cluster", *_settings(own, seen.settings)),
    ]


def _members(seen: Observation) -> Iterator[Finding]:
    if not seen.view.members:
        yield note(
            MEMBERS,
            "the cluster has no member",
            "no node answers clients",
            "on a node: systemctl start maglev0",
        )
    elif not seen.view.weights(dry_run=False):
        yield fault(
            MEMBERS,
            "no member serves: all are draining, have weight 0, or are in a dry run",
            "no node answers clients",
            "maglev0 undrain ID, or maglev0 weight ID 1",
        )
    elif len(seen.view.members) == 1:
        yield note(
            MEMBERS,
            f"{seen.view.members[0].name} is the only member",
            "no other member can take over its share when it fails",
        )


def _owners(first: ClusterReading, last: ClusterReading, vip: IPv4Address) -> Iterator[Finding]:
    before = set(page.summarize(vip, first.seen, first.at_s).alarms)
    for alarm in page.summarize(vip, last.seen, last.at_s).alarms:
        if alarm in before and any(last.seen.owners):
            yield fault(
                OWNERS,
                alarm,
                "clients get two answers, or none",
                "maglev0 status names the nodes; on each, one after the other:"
                " systemctl restart maglev0",
            )


def _identities(members: Iterable[Member], own: Own) -> Iterator[Finding]:
    for mac, sharing in _shared(members, lambda member: member.mac).items():
        yield fault(
            IDENTITIES,
            f"{_names(sharing)} have the same MAC address {mac}",
            "switches deliver the frames of one to the other; a cloned machine needs an address of"
            " its own",
            f"on all but one of {_hosts(sharing)}: ip link set dev … address …",
        )
    for address, sharing in _shared(members, lambda member: member.address).items():
        yield fault(
            IDENTITIES,
            f"{_names(sharing)} have the same address {address}",
            "each of them gets packets that are meant for the other",
            f"change the address on all but one of {_hosts(sharing)}",
        )
    for member in members:
        if member.id == own.my_id and own.mac and member.mac != own.mac:
            yield fault(
                IDENTITIES,
                f"this machine is configured with id {member.id}, which {printable(member.host)}"
                f" ({member.mac}) has",
                "a daemon does not start with an id that another member has",
                "give this machine another --my-id",
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


def _stranger(child: Ignored) -> Finding:
    return warning(
        STRANGERS,
        f"members/{printable(child.name[:_MAX_NAME])} is ignored: {child.reason}",
        "a daemon of another version wrote it, or an intruder; its writer takes no part",
        "upgrade and restart that daemon, or delete the znode",
    )


def _settings(own: Own, found: Settings) -> Iterator[Finding]:
    if own.wishes is not None:
        for contradiction in agreed.contradictions(own.wishes, found):
            yield fault(
                SETTINGS,
                contradiction,
                "a daemon does not start with a flag that contradicts the cluster",
                "leave the flag out, or give the cluster's value",
            )
    if own.my_id is not None and own.my_id > found.total_nodes:
        yield fault(
            SETTINGS,
            f"--my-id={own.my_id} is larger than the cluster's {found.total_nodes} buckets",
            "a daemon does not start with such an id",
            f"choose a --my-id from 1 to {found.total_nodes}",
        )


def judge_macs(macs: Mapping[str, str]) -> list[Finding]:
    """Judge the cluster MACs of all VIPs in this ZooKeeper, by VIP."""
    by_mac: dict[str, list[str]] = {}
    for vip, mac in sorted(macs.items()):
        by_mac.setdefault(mac, []).append(vip)
    shared = [
        warning(
            MACS,
            f"{' and '.join(vips)} have the same cluster MAC {mac}",
            "when one of them leaves a machine, the network card stops listening for the others",
            "start all but one of these clusters again without --cluster-mac",
        )
        for mac, vips in by_mac.items()
        if len(vips) > 1
    ]
    return judged(MACS, "every VIP has its own", *shared)
