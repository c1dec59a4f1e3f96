"""What is to be said of other programs' packet filters.

Pure: imports no I/O.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from maglev0.operator.doctor.filters import judge as rules
from maglev0.operator.doctor.filters import legacy
from maglev0.operator.doctor.filters.judge import Hit, Packet, Ruleset, Way
from maglev0.operator.doctor.finding import Finding, fault, judged, note, warning

DROPS = "foreign rules"
UNTRACKED = "untracked packets"
ADDRESSES = "foreign ARP rules"
_PROTOCOLS = ("tcp", "udp", "icmp")


def judge(ruleset: Ruleset, vip: IPv4Address, interface: str, cluster_mac: str) -> list[Finding]:
    """Judge the rules of others by what they do to the VIP's packets, of each kind."""
    dropped: dict[tuple[Hit, Way], list[str]] = {}
    for way in Way:
        for protocol in (*_PROTOCOLS, "arp"):
            for hit in rules.hits(ruleset, Packet(way, protocol, vip, interface, cluster_mac)):
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
        *judged(DROPS, f"no rule of another program takes the packets of {vip} away", *drops),
        *judged(ADDRESSES, f"no rule of another program takes ARP for {vip} away", *arp),
        *judged(
            UNTRACKED,
            f"connection tracking sees the TCP of {vip}",
            *(_notrack(hit, vip) for hit in sorted(untracked, key=str)),
        ),
    ]


def _drop(hit: Hit, way: Way, kinds: list[str], vip: IPv4Address) -> Finding | None:
    if not kinds:
        return None
    names = " and ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))
    if hit.certain:
        what = f"{hit.where} {hit.verdict}s all {names} that {way} {vip}"
        why = (
            f"this node answers nothing in its share by {names}, and nobody else does in its place"
        )
        return (fault if "tcp" in kinds or len(kinds) > 1 else warning)(
            DROPS, what, why, _mend(hit, way, vip)
        )
    what = f"{hit.where} {hit.verdict}s some of the {names} that {way} {vip}"
    return note(
        DROPS,
        what,
        "if it does not stand on every node alike, clients are answered by some nodes and not by others",
        _mend(hit, way, vip),
    )


def _arp(hit: Hit, way: Way, vip: IPv4Address) -> Finding:
    what = f"{hit.where} drops ARP that {way} {vip}"
    return fault(
        ADDRESSES,
        what,
        "routers and clients do not learn the cluster MAC from this node",
        _mend(hit, way, vip),
    )


def _notrack(hit: Hit, vip: IPv4Address) -> Finding:
    why = "TCP follows its connection, which untracked packets have none of: their connections are dropped at the second packet"
    if hit.certain or hit.named:
        return fault(
            UNTRACKED,
            f"{hit.where} keeps TCP of {vip} from connection tracking",
            why,
            _mend(hit, Way.IN, vip),
        )
    what = f"{hit.where} may keep some TCP of {vip} from connection tracking"
    return warning(UNTRACKED, what, why, f"except the VIP from it, or: {_mend(hit, Way.IN, vip)}")


def _mend(hit: Hit, way: Way, vip: IPv4Address) -> str:
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
    """Family and name of each table, of what `nft list tables` prints."""
    words = [line.split() for line in listed.splitlines()]
    return [(line[1], line[2]) for line in words if len(line) == 3 and line[0] == "table"]


def is_ours(name: str) -> bool:
    """Whether a table of that name is a daemon's."""
    return name.startswith(rules.OUR_PREFIX)


def ours(found: list[tuple[str, str]], vip: IPv4Address) -> bool:
    """Whether a daemon's two tables for the VIP are there."""
    return {("inet", f"{rules.OUR_PREFIX}{vip}"), ("arp", f"{rules.OUR_PREFIX}{vip}")} <= set(found)
