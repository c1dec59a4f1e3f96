"""Judges the packet filters of other programs by what they do to the VIP's packets. Pure.

It imports no I/O. Its input is what `read` beside it returns; `walk` follows the packets.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from maglev0.operator.doctor.filters import legacy, walk
from maglev0.operator.doctor.filters.foreign_rules import Packet, Ruleset, Way
from maglev0.operator.doctor.filters.walk import Hit
from maglev0.operator.doctor.finding import Finding, fault, judged, note, warning

OUR_PREFIX = "maglev0_"  # of the names of the daemon's tables
DROPS = "foreign rules"
UNTRACKED = "untracked packets"
ADDRESSES = "foreign ARP rules"
_PROTOCOLS = ("tcp", "udp", "icmp")


def judge(ruleset: Ruleset, vip: IPv4Address, interface: str, cluster_mac: str) -> list[Finding]:
    """Judge what the rules of other programs do to the VIP's packets of each protocol."""
    dropped: dict[tuple[Hit, Way], list[str]] = {}
    for way in Way:
        for protocol in (*_PROTOCOLS, "arp"):
            for hit in walk.hits(ruleset, Packet(way, protocol, vip, interface, cluster_mac)):
                dropped.setdefault((hit, way), []).append(protocol)
    filters = {found: kinds for found, kinds in dropped.items() if found[0].verdict != "notrack"}
    arp = [
        _arp(hit, way, vip)
        for (hit, way), kinds in filters.items()
        if "arp" in kinds and hit.certain
    ]
    drops = [
        _drop(hit, way, [kind for kind in kinds if kind != "arp"], vip)
        for (hit, way), kinds in filters.items()
    ]
    untracked = {hit for hit, _way in dropped if hit.verdict == "notrack"}
    return [
        *judged(DROPS, f"no rule of another program drops packets of {vip}", *drops),
        *judged(ADDRESSES, f"no rule of another program drops ARP for {vip}", *arp),
        *judged(
            UNTRACKED,
            f"connection tracking sees all TCP of {vip}",
            *(_notrack(hit, vip) for hit in sorted(untracked, key=str)),
        ),
    ]


def _drop(hit: Hit, way: Way, kinds: list[str], vip: IPv4Address) -> Finding | None:
    if not kinds:
        return None
    names = " and ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))
    if hit.certain:
        what = f"{hit.where} {hit.verdict}s all {names} packets that {way} {vip}"
        why = f"this node does not answer {names} in its share, and no other node does"
        return (fault if "tcp" in kinds or len(kinds) > 1 else warning)(
            DROPS, what, why, _fix(hit, way, vip)
        )
    what = f"{hit.where} {hit.verdict}s some {names} packets that {way} {vip}"
    return note(
        DROPS,
        what,
        "if not every node has the same rule, some nodes answer such clients and others do not",
        _fix(hit, way, vip),
    )


def _arp(hit: Hit, way: Way, vip: IPv4Address) -> Finding:
    what = f"{hit.where} drops ARP packets that {way} {vip}"
    return fault(
        ADDRESSES,
        what,
        "routers and clients cannot learn the cluster MAC from this node",
        _fix(hit, way, vip),
    )


def _notrack(hit: Hit, vip: IPv4Address) -> Finding:
    why = (
        "the daemon's rules accept later packets of a connection only if connection tracking knows"
        " it: without it, the connection ends at its second packet"
    )
    if hit.certain or hit.named:
        return fault(
            UNTRACKED,
            f"{hit.where} hides TCP of {vip} from connection tracking",
            why,
            _fix(hit, Way.IN, vip),
        )
    what = f"{hit.where} may hide some TCP of {vip} from connection tracking"
    return warning(
        UNTRACKED, what, why, f"exclude the VIP from the rule, or: {_fix(hit, Way.IN, vip)}"
    )


def _fix(hit: Hit, way: Way, vip: IPv4Address) -> str:
    side = ("daddr", "-d") if way is Way.IN else ("saddr", "-s")
    if hit.table.endswith(legacy.MARK):
        table = hit.table.removesuffix(legacy.MARK)
        return f"iptables-legacy -t {table} " + (
            f"-D {hit.chain} {hit.handle}"
            if hit.handle
            else f"-I {hit.chain} {side[1]} {vip} -j ACCEPT"
        )
    if hit.handle is None:
        match = f"arp {side[0]} ip" if hit.family == "arp" else f"ip {side[0]}"
        return f"nft insert rule {hit.family} {hit.table} {hit.chain} {match} {vip} accept"
    return f"nft delete rule {hit.family} {hit.table} {hit.chain} handle {hit.handle}"


def tables(listed: str) -> list[tuple[str, str]]:
    """Family and name of each table in the output of `nft list tables`."""
    words = [line.split() for line in listed.splitlines()]
    return [(line[1], line[2]) for line in words if len(line) == 3 and line[0] == "table"]


def is_daemon_table(name: str) -> bool:
    """Whether a table of that name belongs to a daemon."""
    return name.startswith(OUR_PREFIX)


def has_own_tables(found: list[tuple[str, str]], vip: IPv4Address) -> bool:
    """Whether a daemon's two tables for the VIP exist."""
    return {("inet", f"{OUR_PREFIX}{vip}"), ("arp", f"{OUR_PREFIX}{vip}")} <= set(found)
