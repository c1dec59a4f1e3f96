"""Judges this machine's place in the network: interface, addresses, routes, settings. Pure.

It imports no I/O. Its input is what `read` beside it returns.
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
ANSWERS = "the path of answers"
SOURCE = "source address"
ARP = "ARP settings"
MULTICAST = "unicast in multicast frames"
PING = "ping"
GROUP = "multicast group"
DEFAULT = "0.0.0.0/0"
_IP_MULTICAST = "01:00:5e:"


@dataclass(frozen=True)
class Route:
    """The clients behind one route, and what this kernel does with their packets for the VIP.

    `connected`: they are neighbours on a link. `accepted`: the kernel takes their packets when they
    arrive on the traffic interface (None: it cannot be asked). Answers to them leave by the
    interface `leaves_by`. Connections that this host opens to them come from `source`.
    """

    network: str
    connected: bool
    accepted: bool | None
    leaves_by: str
    source: str


@dataclass(frozen=True)
class NetworkReading:
    """The state of the interface and of the VIP on this machine.

    `master` is the device that takes the interface's packets, `stacked` one that shares them; empty
    if there is none. `hears_all`: the interface receives every multicast frame. `holders` are the
    interfaces that have the VIP. `rules`: the daemon's rules are loaded (None: not readable).
    `groups` are the MACs of the multicast groups joined on the interface. `settings` are the
    sysctls in force for the interface, by their last name; "all" is taken into account.
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
    """What should be there.

    `serving`: this machine is a member that serves (None: ZooKeeper did not answer).
    """

    vip: IPv4Address
    cluster_mac: str
    serving: bool | None
    clusterip: bool = False


def judge(host: NetworkReading, wanted: Wanted) -> list[Finding]:
    """Judge one reading of the network."""
    return [
        *judged(INTERFACE, f"{host.interface.name} is up", *_interface(host)),
        *judged(VIP_PLACE, _place_in_words(host, wanted), *_place(host, wanted)),
        *_filter(host, wanted),
        *_reverse_path(host),
        *judged(SOURCE, f"this host opens no connection from {wanted.vip}", _source(host, wanted)),
        *judged(ARP, f"{host.interface.name} answers ARP for {wanted.vip}", *_arp(host, wanted)),
        *judged(MULTICAST, "the kernel does not drop them", _unicast(host, wanted)),
        *judged(PING, "this host answers pings", _ping(host)),
        *judged(
            GROUP,
            "switches do not treat the cluster MAC as a multicast group",
            _group(host, wanted),
        ),
    ]


def _interface(host: NetworkReading) -> list[Finding]:
    name, found = host.interface.name, []
    if not host.up:
        fix = f"ip link set {name} up, or plug in the cable"
        found.append(
            fault(
                INTERFACE,
                f"{name} is down or without a carrier",
                "no packet can arrive, so this node leaves the cluster",
                fix,
            )
        )
    if not host.interface.mac:
        found.append(
            fault(
                INTERFACE,
                f"{name} has no MAC address",
                "the cluster MAC needs an Ethernet interface",
                "choose another with --interface",
            )
        )
    if host.master:
        what = f"{name} belongs to {host.master}, where its packets arrive"
        found.append(
            fault(
                INTERFACE,
                what,
                f"rules for {name} never see these packets",
                f"start the daemon with --interface={host.master}",
            )
        )
    if host.stacked:
        why = (
            f"the packets of {host.stacked} are not for maglev0, so the daemon uses neither XDP nor"
            " the early stage here; foreign packets cost more"
        )
        found.append(
            note(
                INTERFACE,
                f"{host.stacked} shares {name}",
                why,
                "if that cost matters, give the VIP an interface of its own",
            )
        )
    return found


def _place_in_words(host: NetworkReading, wanted: Wanted) -> str:
    return (
        f"{wanted.vip} is on {host.holders[0]}"
        if host.holders
        else f"{wanted.vip} is not on this machine"
    )


def _place(host: NetworkReading, wanted: Wanted) -> list[Finding]:
    vip, name = wanted.vip, host.interface.name
    found = []
    for other in (holder for holder in host.holders if holder not in (name, LOOPBACK)):
        why = (
            f"no rule of the daemon filters packets that arrive by {other}: this host answers every"
            " client there, in addition to the owner"
        )
        found.append(
            fault(VIP_PLACE, f"{vip} is on {other}, too", why, f"ip address del {vip} dev {other}")
        )
    here = set(host.holders) & {name, LOOPBACK}
    if host.rules is False and here and not wanted.serving:
        where = min(here)
        why = "this host answers every client with its own MAC address, in addition to the owner"
        what = f"{vip} is on {where}, without the daemon's rules"
        found.append(
            fault(
                VIP_PLACE,
                what,
                why,
                f"systemctl start maglev0, or: ip address del {vip} dev {where}",
            )
        )
    elif here and wanted.serving is False:
        why = (
            "the rules keep established connections and refuse the rest; this host still answers"
            " ARP for the VIP"
        )
        what = f"a daemon that was killed left {vip} and its rules on this machine"
        found.append(warning(VIP_PLACE, what, why, "systemctl start maglev0"))
    if wanted.serving and not here:
        why = "this machine is a member, and no node answers in its share"
        found.append(
            fault(
                VIP_PLACE,
                f"{vip} is not on {name}",
                why,
                "systemctl restart maglev0",
            )
        )
    return found


def _filter(host: NetworkReading, wanted: Wanted) -> list[Finding]:
    if not wanted.serving:
        return []
    name, mac = host.interface.name, wanted.cluster_mac
    why = (
        "a network card drops frames for a multicast MAC that it does not listen for: no packet for"
        " the VIP arrives"
    )
    missing = fault(
        MAC_FILTER, f"{name} does not listen for {mac}", why, f"ip maddress add {mac} dev {name}"
    )
    gone = fault(
        RULES,
        "the daemon's rules are missing",
        "this host answers every client, in addition to the owner",
        "systemctl restart maglev0",
    )
    rules = (
        [left_out(RULES, "only root may read the rules")]
        if host.rules is None
        else judged(RULES, "they are loaded", None if host.rules else gone)
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
        return [left_out(REVERSE_PATH, "this machine has no address to test with")]
    refused = [
        _refused(route, host)
        for route in asked
        if not route.accepted and not _at_home_elsewhere(route, name)
    ]
    away = [
        note(
            ANSWERS,
            f"answers to {_named(route)} leave by {route.leaves_by}",
            "they take another path than the requests; a stateful firewall on it may drop them",
        )
        for route in asked
        if route.accepted and route.leaves_by != name and not route.connected
    ]
    lost = None
    if not any(route.network == DEFAULT for route in host.routes):
        lost = note(
            ANSWERS,
            "there is no default route",
            "clients for which this node has no route get no answer from it",
            "ip route add default via …",
        )
    return [
        *judged(
            REVERSE_PATH,
            "the kernel accepts packets from every network that it has a route to",
            *refused,
        ),
        *judged(ANSWERS, f"they leave by {name}", *away, lost),
    ]


def _at_home_elsewhere(route: Route, name: str) -> bool:
    """Whether such clients are neighbours on another link, so they do not send by this one."""
    return route.connected and route.leaves_by != name


def _refused(route: Route, host: NetworkReading) -> Finding:
    name = host.interface.name
    what = f"this kernel drops packets that {_named(route)} send to the VIP by {name}"
    why = (
        f"rp_filter is {host.settings.get('rp_filter', 0)}, and answers to them would leave by"
        f" {route.leaves_by or 'no interface'}"
    )
    # The kernel uses the greater of "all" and the interface's own value.
    fix = f"sysctl -w net.ipv4.conf.{name}.rp_filter=2, or add a route to them by {name}"
    return (fault if route.network == DEFAULT or route.leaves_by == name else warning)(
        REVERSE_PATH, what, why, fix
    )


def _named(route: Route) -> str:
    return "clients anywhere" if route.network == DEFAULT else f"clients in {route.network}"


def _source(host: NetworkReading, wanted: Wanted) -> Finding | None:
    from_vip = [route for route in host.routes if route.source == str(wanted.vip)]
    if not from_vip:
        return None
    what = f"connections of this host to {_named(from_vip[0])} come from {wanted.vip}"
    why = (
        "answers to them hash to any node of the cluster, which drops them: connections from the"
        " VIP are not supported"
    )
    own = host.interface.address
    fix = (
        f"ip route change {from_vip[0].network} … src {own}"
        if own
        else f"give {host.interface.name} an address of its own"
    )
    return fault(SOURCE, what, why, fix)


def _arp(host: NetworkReading, wanted: Wanted) -> Iterable[Finding]:
    name, vip = host.interface.name, wanted.vip
    ignore = host.settings.get("arp_ignore", 0)
    on_loopback = LOOPBACK in host.holders and name not in host.holders
    # 2 answers only a sender in the address's own network; the VIP is a /32, so no sender is. 8
    # answers no one (ip-sysctl.rst).
    if ignore in (2, 4, 5, 6, 7, 8) or (ignore and on_loopback):
        why = f"with arp_ignore={ignore} this host does not answer ARP requests for {vip}"
        fix = f"sysctl -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.{name}.arp_ignore=0"
        yield fault(
            ARP,
            f"this host does not answer ARP for {vip} on {name}",
            f"{why}; if all nodes are set so, no router finds the cluster",
            fix,
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
        why = (
            "two interfaces are in one network, and with arp_filter=1 each answers only hosts that"
            " this host reaches by it"
        )
        yield fault(
            ARP,
            f"this host does not answer ARP from {away[0].network} on {name}",
            why,
            f"sysctl -w net.ipv4.conf.all.arp_filter=0 net.ipv4.conf.{name}.arp_filter=0",
        )
    if host.settings.get("proxy_arp") and not wanted.serving:
        why = (
            "without the daemon's rules this host answers ARP for the VIP with its own MAC address"
            " and takes all traffic"
        )
        yield warning(
            ARP,
            f"proxy_arp is on for {name}",
            why,
            f"sysctl -w net.ipv4.conf.all.proxy_arp=0 net.ipv4.conf.{name}.proxy_arp=0",
        )


def _unicast(host: NetworkReading, wanted: Wanted) -> Finding | None:
    if not host.settings.get("drop_unicast_in_l2_multicast") or not wanted.clusterip:
        return None  # nftables changes the packet type before the kernel tests this
    name = host.interface.name
    last = "drop_unicast_in_l2_multicast"
    what = f"{last} is on for {name}"
    why = "the VIP's packets are of this kind, and the CLUSTERIP target comes after the test"
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
    why = (
        "switches that snoop IGMP deliver such frames only to ports of hosts that joined the group,"
        " and this host has not"
    )
    fix = (
        "switch IGMP snooping off for this VLAN, or start a new cluster with a --cluster-mac"
        " outside 01:00:5e"
    )
    return warning(GROUP, f"the cluster MAC {mac} is that of an IP multicast group", why, fix)
