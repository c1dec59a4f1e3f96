"""Whether this machine's place in the network can carry a node: its interface, addresses, routes and settings.

Pure: imports no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from maglev0.dataplane.host.interface import LOOPBACK, Interface
from maglev0.operator.doctor.finding import Finding, fault, judged, left_out, note, warning

INTERFACE = "traffic interface"
VIP_PLACE = "the VIP's place"
MAC_FILTER = "cluster MAC on the interface"
RULES = "the daemon's rules"
REVERSE_PATH = "rp_filter"
ANSWERS = "the way of answers"
SOURCE = "source address"
ARP = "ARP settings"
MULTICAST = "unicast in multicast frames"
PING = "ping"
GROUP = "multicast group"
DEFAULT = "0.0.0.0/0"
_IP_MULTICAST = "01:00:5e:"


@dataclass(frozen=True)
class Route:
    """Clients behind one route: an address among them, and what this kernel does with their packets for the VIP.

    `connected`: they are neighbours on a link. `accepted`: the kernel takes a packet of theirs that arrives on the traffic interface (None: it cannot
    be asked). Answers leave by `leaves_by`; what this host itself opens to them comes from `source`.
    """

    network: str
    connected: bool
    accepted: bool | None
    leaves_by: str
    source: str


@dataclass(frozen=True)
class NetworkReading:
    """What stands on this machine. `master` is the device that takes the interface's packets, `stacked` one that shares them; empty: none.

    `hears_all`: the interface receives every multicast frame. `groups` are the MACs of the multicast groups joined there. `settings` are sysctls in
    force for the interface, by their last name, "all" and its own taken together.
    """

    interface: Interface
    up: bool
    master: str
    stacked: str
    hears_all: bool
    has_mac: bool
    holders: tuple[str, ...]
    rules: bool | None
    groups: frozenset[str]
    settings: Mapping[str, int]
    routes: tuple[Route, ...]


@dataclass(frozen=True)
class Wanted:
    """What should be there. `serving`: this machine is a member that serves (None: nobody knows, for ZooKeeper was not asked)."""

    vip: IPv4Address
    cluster_mac: str
    serving: bool | None
    clusterip: bool = False


def judge(host: NetworkReading, wanted: Wanted) -> list[Finding]:
    """Judge all of it."""
    return [
        *judged(INTERFACE, f"{host.interface.name} is up", *_interface(host)),
        *judged(VIP_PLACE, _place_in_words(host, wanted), *_place(host, wanted)),
        *_filter(host, wanted),
        *_reverse_path(host),
        *judged(SOURCE, f"this host opens nothing from {wanted.vip}", _source(host, wanted)),
        *judged(
            ARP, f"they let {host.interface.name} answer for {wanted.vip}", *_arp(host, wanted)
        ),
        *judged(MULTICAST, "they are not thrown away", _unicast(host, wanted)),
        *judged(PING, "this host answers pings", _ping(host)),
        *judged(GROUP, "no switch takes the cluster MAC for a group's", _group(host, wanted)),
    ]


def _interface(host: NetworkReading) -> list[Finding]:
    name, found = host.interface.name, []
    if not host.up:
        mend = f"ip link set {name} up, or plug the cable in"
        found.append(
            fault(
                INTERFACE,
                f"{name} is down or without a carrier",
                "no packet can arrive there, so this node leaves the cluster",
                mend,
            )
        )
    if not host.interface.mac:
        found.append(
            fault(
                INTERFACE,
                f"{name} has no MAC address",
                "the cluster MAC needs an Ethernet network",
                "name another by --interface",
            )
        )
    if host.master:
        what = f"{name} belongs to {host.master}, where its packets arrive"
        found.append(
            fault(
                INTERFACE,
                what,
                f"rules for {name} never see them",
                f"give the daemon --interface={host.master}",
            )
        )
    if host.stacked:
        why = "its packets are not ours to judge, so XDP and the cheap early stage stay out, and foreign packets cost more"
        found.append(
            note(
                INTERFACE,
                f"{host.stacked} shares {name}",
                why,
                "give the VIP an interface of its own, if that cost matters",
            )
        )
    return found


def _place_in_words(host: NetworkReading, wanted: Wanted) -> str:
    return (
        f"{wanted.vip} stands on {host.holders[0]}"
        if host.holders
        else f"{wanted.vip} does not stand on this machine"
    )


def _place(host: NetworkReading, wanted: Wanted) -> list[Finding]:
    vip, name = wanted.vip, host.interface.name
    found = []
    for other in (holder for holder in host.holders if holder not in (name, LOOPBACK)):
        why = "what arrives there nobody judges: this host answers it for every share, beside the nodes that own them"
        found.append(
            fault(
                VIP_PLACE, f"{vip} stands on {other}, too", why, f"ip address del {vip} dev {other}"
            )
        )
    here = set(host.holders) & {name, LOOPBACK}
    if host.rules is False and here and not wanted.serving:
        where = min(here)
        why = "this host answers every client with its own MAC address, beside the nodes that own the shares"
        what = f"{vip} stands on {where}, and no rules judge what arrives for it"
        found.append(
            fault(VIP_PLACE, what, why, f"start the daemon, or: ip address del {vip} dev {where}")
        )
    elif here and wanted.serving is False:
        why = "its rules let connections live and refuse all else; neighbours still hear of the VIP from here"
        what = f"a daemon that was killed left {vip} and its rules on this machine"
        found.append(warning(VIP_PLACE, what, why, f"systemctl start maglev0@{vip}"))
    if wanted.serving and not here:
        why = "this machine is a member, and nobody answers in its share"
        found.append(
            fault(
                VIP_PLACE,
                f"{vip} does not stand on {name}",
                why,
                f"systemctl restart maglev0@{vip}",
            )
        )
    return found


def _filter(host: NetworkReading, wanted: Wanted) -> list[Finding]:
    if not wanted.serving:
        return []
    name, mac = host.interface.name, wanted.cluster_mac
    why = "a network card throws away what goes to a multicast MAC that it was not told of: no packet for the VIP arrives"
    missing = fault(
        MAC_FILTER, f"{name} does not listen for {mac}", why, f"ip maddress add {mac} dev {name}"
    )
    gone = fault(
        RULES,
        "they are not there",
        "this host answers for every share",
        f"systemctl restart maglev0@{wanted.vip}",
    )
    rules = (
        [left_out(RULES, "only root may look")]
        if host.rules is None
        else judged(RULES, "they stand", None if host.rules else gone)
    )
    return [
        *judged(
            MAC_FILTER,
            f"{name} listens for {mac}",
            None if host.has_mac or host.hears_all else missing,
        ),
        *rules,
    ]


def _reverse_path(host: NetworkReading) -> list[Finding]:
    name = host.interface.name
    asked = [route for route in host.routes if route.accepted is not None]
    if not asked:
        return [left_out(REVERSE_PATH, "this machine has no address that packets could be for")]
    refused = [
        _refused(route, host)
        for route in asked
        if not route.accepted and not _at_home_elsewhere(route, name)
    ]
    away = [
        note(
            ANSWERS,
            f"answers to {_named(route)} leave by {route.leaves_by}",
            "they take another way than the questions; firewalls on it may mind",
        )
        for route in asked
        if route.accepted and route.leaves_by != name and not route.connected
    ]
    lost = None
    if not any(route.network == DEFAULT for route in host.routes):
        lost = note(
            ANSWERS,
            "there is no default route",
            "clients that no other route leads to get no answer from this node",
            "ip route add default via …",
        )
    return [
        *judged(REVERSE_PATH, "the kernel takes packets from wherever it has a route", *refused),
        *judged(ANSWERS, f"they leave by {name}", *away, lost),
    ]


def _at_home_elsewhere(route: Route, name: str) -> bool:
    """Whether such clients are neighbours on another link: their packets have no business on this one."""
    return route.connected and route.leaves_by != name


def _refused(route: Route, host: NetworkReading) -> Finding:
    name = host.interface.name
    what = f"this kernel refuses what {_named(route)} send to the VIP by {name}"
    why = f"rp_filter is {host.settings.get('rp_filter', 0)}, and answers to them would leave by {route.leaves_by or 'no interface'}"
    mend = f"sysctl -w net.ipv4.conf.{name}.rp_filter=2, or a route to them by {name}"  # the greater of "all" and its own counts
    return (fault if route.network == DEFAULT or route.leaves_by == name else warning)(
        REVERSE_PATH, what, why, mend
    )


def _named(route: Route) -> str:
    return "clients anywhere" if route.network == DEFAULT else f"clients in {route.network}"


def _source(host: NetworkReading, wanted: Wanted) -> Finding | None:
    from_vip = [route for route in host.routes if route.source == str(wanted.vip)]
    if not from_vip:
        return None
    what = f"what this host opens to {_named(from_vip[0])} comes from {wanted.vip}"
    why = "answers to it hash to any node of the cluster, and are dropped there: connections from the VIP are not supported"
    own = host.interface.address
    mend = (
        f"ip route change {from_vip[0].network} … src {own}"
        if own
        else f"give {host.interface.name} an address of its own"
    )
    return fault(SOURCE, what, why, mend)


def _arp(host: NetworkReading, wanted: Wanted) -> Iterable[Finding]:
    name, vip = host.interface.name, wanted.vip
    ignore = host.settings.get("arp_ignore", 0)
    on_loopback = LOOPBACK in host.holders and name not in host.holders
    # 2 asks for a sender in the address's own network, and ours is a /32, which no sender is in; 8 answers nobody (ip-sysctl.rst).
    if ignore in (2, 4, 5, 6, 7, 8) or (ignore and on_loopback):
        why = f"arp_ignore={ignore} keeps this host from answering who asks for {vip}"
        mend = f"sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.{name}.arp_ignore=0"
        yield fault(
            ARP,
            f"ARP for {vip} is not answered on {name}",
            f"{why}; if all nodes do so, no router finds the cluster",
            mend,
        )
    away = [
        route
        for route in host.routes
        if route.connected
        and route.accepted
        and route.leaves_by != name
        and route.source == host.interface.address
    ]
    if host.settings.get("arp_filter") and away:
        why = f"arp_filter=1 answers only whom this host would talk to by {name}; two interfaces stand in one network"
        yield fault(
            ARP,
            f"ARP from {away[0].network} is not answered on {name}",
            why,
            f"sysctl -w net.ipv4.conf.all.arp_filter=0 net.ipv4.conf.{name}.arp_filter=0",
        )
    if host.settings.get("proxy_arp") and not wanted.serving:
        why = "without the daemon's rules this host would answer for the VIP with its own MAC address, wherever its route leads, and take all traffic"
        yield warning(
            ARP,
            f"proxy_arp is on for {name}",
            why,
            f"sysctl -w net.ipv4.conf.all.proxy_arp=0 net.ipv4.conf.{name}.proxy_arp=0",
        )


def _unicast(host: NetworkReading, wanted: Wanted) -> Finding | None:
    if not host.settings.get("drop_unicast_in_l2_multicast") or not wanted.clusterip:
        return None  # nftables makes them the host's own before that is looked at
    name = host.interface.name
    last = "drop_unicast_in_l2_multicast"
    what = f"{last} is on for {name}"
    why = "the VIP's packets are just that, and the CLUSTERIP target comes too late to save them"
    return fault(
        MULTICAST, what, why, f"sysctl -w net.ipv4.conf.all.{last}=0 net.ipv4.conf.{name}.{last}=0"
    )


def _ping(host: NetworkReading) -> Finding | None:
    if not host.settings.get("icmp_echo_ignore_all"):
        return None
    return note(
        PING,
        "icmp_echo_ignore_all is on",
        "clients in this node's share cannot ping the VIP",
        "sysctl -w net.ipv4.icmp_echo_ignore_all=0",
    )


def _group(host: NetworkReading, wanted: Wanted) -> Finding | None:
    mac = wanted.cluster_mac
    if not mac.startswith(_IP_MULTICAST) or mac in host.groups:
        return None
    why = "switches that snoop IGMP deliver it only to ports whose hosts joined such a group, and this host has not"
    mend = "found the cluster with a --cluster-mac outside 01:00:5e, or switch IGMP snooping off for this VLAN"
    return warning(GROUP, f"the cluster MAC {mac} is that of an IP multicast group", why, mend)
