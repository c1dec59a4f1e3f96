"""Whether rules of other programs take the VIP's packets away, or keep connection tracking from seeing them.

Pure: imports no I/O. Rules are read as `nft -j list table` prints them (libnftables-json(5)). A packet is known in part: it is for the VIP,
arrives on the traffic interface and is of one protocol, while its source and its ports are anybody's. So a test is true, false or unknown (None), and
only what no packet of the kind can escape is called certain. Rules that name the VIP and more besides take *some* of its packets.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

OUR_PREFIX = "maglev0_"
MAX_DEPTH = 16  # the kernel allows as many jumps within each other (NFT_JUMP_STACK_SIZE)
SECOND_STAGE = -150  # behind it what we accepted is no multicast any more (ruleset.py)
CONNTRACK = -200
OWN_NETWORK = 24  # a rule for a larger network is not about the VIP
_INPUT_HOOKS = {"ingress", "prerouting", "input"}
_OUTPUT_HOOKS = {"output", "postrouting", "egress"}
_ELSEWHERE = {
    "queue",
    "tproxy",
    "synproxy",
    "redirect",
    "dnat",
    "fwd",
}  # the packet leaves the chain, for an end that is not known
_VERDICTS = {"vmap", "drop", "reject", "accept", "continue", "return", "jump", "goto"} | _ELSEWHERE
_STATEMENTS = {
    "notrack",
    "counter",
    "log",
    "mangle",
    "comment",
} | _VERDICTS  # all that tests nothing


class Way(enum.StrEnum):
    """Which way a packet goes."""

    IN = "arrives for"
    OUT = "leaves from"


@dataclass(frozen=True)
class Packet:
    """Some packet of the VIP's; `protocol` is tcp, udp, icmp or arp."""

    way: Way
    protocol: str
    vip: IPv4Address
    interface: str
    cluster_mac: str


class Ruleset:
    """The rules of other programs: chains and named sets, by family, table and name."""

    def __init__(self, objects: Iterable[Mapping[str, Any]]) -> None:
        self.chains: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        self.rules: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        self.sets: dict[tuple[str, str, str], list[Any]] = {}
        for found in objects:
            if "chain" in found:
                chain = found["chain"]
                self.chains[chain["family"], chain["table"], chain["name"]] = chain
            elif "rule" in found:
                rule = found["rule"]
                self.rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(
                    rule
                )
            elif "set" in found or "map" in found:
                named = found.get("set") or found["map"]
                self.sets[named["family"], named["table"], named["name"]] = named.get("elem", [])

    def base_chains(self, packet: Packet) -> Iterator[tuple[str, str, str]]:
        """Those that such a packet passes, in no certain order."""
        for key, chain in self.chains.items():
            if _passes(packet, chain):
                yield key


def _passes(packet: Packet, chain: Mapping[str, Any]) -> bool:
    hooks = _INPUT_HOOKS if packet.way is Way.IN else _OUTPUT_HOOKS
    if (
        chain.get("hook") not in hooks or chain.get("type") == "nat"
    ):  # a chain for NAT sees first packets alone, and drops nothing
        return False
    families = {"arp"} if packet.protocol == "arp" else {"ip", "inet"}
    devices = chain.get("dev", "")
    on_device = packet.interface in ([devices] if isinstance(devices, str) else devices)
    return chain["family"] in families or (chain["family"] == "netdev" and on_device)


class Hit(NamedTuple):
    """Where packets are dropped or untracked: a rule or, without a handle, a chain's policy.

    `certain`: all packets of the kind; otherwise some, or perhaps some where the rule does not name the VIP either (`named`).
    """

    verdict: str
    family: str
    table: str
    chain: str
    handle: int | None
    certain: bool
    named: bool

    @property
    def where(self) -> str:
        """The place, in nft's words."""
        place = f"{self.family} {self.table} {self.chain}"
        return (
            f"the policy of chain {place}"
            if self.handle is None
            else f"rule {self.handle} of chain {place}"
        )


@dataclass
class _ChainWalk:
    """One packet on its way through one base chain."""

    ruleset: Ruleset
    packet: Packet
    base: Mapping[str, Any]
    hits: list[Hit] = field(default_factory=list)
    may_have_left: bool = False  # an earlier rule may have accepted it

    def note(
        self,
        key: tuple[str, str, str],
        verdict: str,
        handle: int | None,
        *,
        certain: bool,
        named: bool = False,
    ) -> None:
        self.hits.append(Hit(verdict, *key, handle, certain and not self.may_have_left, named))


class _End(enum.Enum):
    """How a chain ended."""

    RETURNED = "returned"
    ACCEPTED = "accepted"
    DROPPED = "dropped"


_ENDS = {"accept": _End.ACCEPTED, "return": _End.RETURNED}


def hits(ruleset: Ruleset, packet: Packet) -> list[Hit]:
    """Where rules drop such packets, or (tcp alone) keep them from being tracked: those that match all of them, or name the VIP."""
    found: list[Hit] = []
    for key in ruleset.base_chains(packet):
        walk = _ChainWalk(ruleset, packet, ruleset.chains[key])
        if (
            _through(walk, key, 0) is _End.RETURNED
            and walk.base.get("policy") == "drop"
            and not walk.may_have_left
        ):
            walk.note(key, "drop", None, certain=True)
        found += walk.hits
    return found


def _through(walk: _ChainWalk, key: tuple[str, str, str], depth: int) -> _End:
    if depth > MAX_DEPTH:
        return _End.RETURNED
    for rule in walk.ruleset.rules.get(key, ()):
        end = _apply(walk, key, rule, depth)
        if end is not None:
            return end
    return _End.RETURNED


def _apply(
    walk: _ChainWalk, key: tuple[str, str, str], rule: Mapping[str, Any], depth: int
) -> _End | None:
    """What one rule does to the packet; None: it goes on with the next."""
    matched: bool | None = True
    names_vip = False
    for expression in rule.get("expr", ()):
        kind, value = _first(expression)
        if kind == "match":
            result = _matches(walk, key, value)
            if result is False:
                return None
            matched = matched if result else None
            names_vip |= bool(result) and _names(value)
            continue
        if kind not in _STATEMENTS and not (
            kind == "xt" and _kind_of(value) == "target"
        ):  # a test, or what this does not know
            matched = None
            continue
        if kind == "vmap":
            return _vmap(walk, key, rule, value, depth)
        end = _verdict(walk, _Reached(key, rule["handle"], matched, names_vip), kind, value, depth)
        if end is not None or kind in ("goto", "return", "drop", "reject", "accept"):
            return end
    return None


class _Reached(NamedTuple):
    """A rule with a verdict: whether its tests were all true (None: perhaps), and whether one of them named the VIP."""

    key: tuple[str, str, str]
    handle: int
    matched: bool | None
    names_vip: bool


def _verdict(walk: _ChainWalk, reached: _Reached, kind: str, value: Any, depth: int) -> _End | None:
    if kind in ("drop", "reject"):
        return _dropped(walk, reached, kind)
    if kind == "notrack" or (kind == "xt" and value.get("name") in ("CT", "NOTRACK")):
        _untracked(walk, reached, certain=kind == "notrack")
        return None
    if kind in ("accept", "return"):
        walk.may_have_left |= reached.matched is None
        return _ENDS[kind] if reached.matched else None
    if kind in ("jump", "goto"):
        return _jump(walk, reached, kind, value["target"], depth)
    walk.may_have_left |= kind in _ELSEWHERE or kind == "xt"
    return None


def _dropped(walk: _ChainWalk, reached: _Reached, kind: str) -> _End | None:
    if reached.matched:
        if reached.names_vip or not walk.may_have_left:
            walk.note(reached.key, kind, reached.handle, certain=True, named=reached.names_vip)
        return _End.DROPPED
    if reached.names_vip:
        walk.note(reached.key, kind, reached.handle, certain=False, named=True)
    return None


def _untracked(walk: _ChainWalk, reached: _Reached, *, certain: bool) -> None:
    # Behind connection tracking the order comes too late; for other protocols nothing follows connections.
    in_time = (
        walk.base.get("hook") in ("prerouting", "output")
        and int(walk.base.get("prio", 0)) < CONNTRACK
    )
    if walk.packet.protocol == "tcp" and in_time:
        walk.note(
            reached.key,
            "notrack",
            reached.handle,
            certain=certain and bool(reached.matched),
            named=certain and reached.names_vip,
        )


def _jump(walk: _ChainWalk, reached: _Reached, kind: str, target: str, depth: int) -> _End | None:
    family, table, _chain = reached.key
    inner = _ChainWalk(walk.ruleset, walk.packet, walk.base, may_have_left=walk.may_have_left)
    end = _through(inner, (family, table, target), depth + 1)
    walk.may_have_left = inner.may_have_left or (reached.matched is None and end is _End.ACCEPTED)
    for hit in inner.hits:
        named = hit.named or reached.names_vip
        if reached.matched or named or hit.verdict == "notrack":
            walk.hits.append(
                hit._replace(certain=hit.certain and bool(reached.matched), named=named)
            )
    if not reached.matched or (end is _End.RETURNED and kind == "jump"):
        return None
    return end


def _vmap(
    walk: _ChainWalk,
    key: tuple[str, str, str],
    rule: Mapping[str, Any],
    value: Mapping[str, Any],
    depth: int,
) -> _End | None:
    """A verdict map: by a key that is known the one verdict, by another any of them, or none."""
    data = value.get("data")
    pairs = (
        data.get("set", [])
        if isinstance(data, dict)
        else walk.ruleset.sets.get((*key[:2], str(data).removeprefix("@")))
    )
    if pairs is None:
        walk.may_have_left = True
        return None
    known = _value(walk, value.get("key"))
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], dict):
            continue
        result = None if known is None else _equals(walk, key, known, pair[0])
        if result is False:
            continue
        kind, target = next(iter(pair[1].items()))
        reached = _Reached(
            key,
            rule["handle"],
            result,
            bool(result) and _names({"op": "==", "left": value.get("key"), "right": pair[0]}),
        )
        end = _verdict(walk, reached, kind, target, depth)
        if result:
            return end
    return None


def _matches(walk: _ChainWalk, key: tuple[str, str, str], match: Mapping[str, Any]) -> bool | None:
    left = match["left"]
    foreign = _foreign_protocol(walk.packet, left)
    if foreign:
        return False
    known = _value(walk, left)
    operator = match.get("op")
    if known is None or operator not in ("==", "!=", "in"):
        return None
    result = _equals(walk, key, known, match["right"])
    return None if result is None else result is (operator != "!=")


_BY_PROTOCOL = {"tcp": {"tcp", "th"}, "udp": {"udp", "th"}, "icmp": {"icmp"}, "arp": {"arp"}}


def _foreign_protocol(packet: Packet, left: Any) -> bool:
    """Whether the test looks at a header that the packet has not."""
    if not isinstance(left, dict):
        return False
    inner = left.get("&")
    if isinstance(inner, list) and inner:
        return _foreign_protocol(packet, inner[0])
    protocol = (
        left.get("payload", {}).get("protocol") if isinstance(left.get("payload"), dict) else None
    )
    if protocol in (None, "ether"):
        return False
    mine = _BY_PROTOCOL[packet.protocol] | (set() if packet.protocol == "arp" else {"ip"})
    return protocol not in mine


def _value(walk: _ChainWalk, left: Any) -> str | None:
    """What the packet has there, None where it may have anything."""
    if not isinstance(left, dict):
        return None
    kind, inner = next(iter(left.items()))
    reader = _READERS.get(kind)
    return reader(walk, inner) if reader is not None and isinstance(inner, dict) else None


def _payload(walk: _ChainWalk, payload: Mapping[str, Any]) -> str | None:
    packet, place = walk.packet, (str(payload.get("protocol")), str(payload.get("field")))
    incoming = packet.way is Way.IN
    known = {
        ("ip", "daddr" if incoming else "saddr"): str(packet.vip),
        ("ip", "protocol"): packet.protocol,
        ("arp", "daddr ip" if incoming else "saddr ip"): str(packet.vip),
        ("ether", "daddr"): packet.cluster_mac if incoming and packet.protocol != "arp" else None,
    }
    return known.get(place)


def _meta(walk: _ChainWalk, meta: Mapping[str, Any]) -> str | None:
    packet, incoming = walk.packet, walk.packet.way is Way.IN
    early = int(walk.base.get("prio", 0)) < SECOND_STAGE and walk.base.get("hook") in (
        "ingress",
        "prerouting",
    )
    interface_keys = ("iifname", "iif") if incoming else ("oifname", "oif")
    if meta.get("key") in interface_keys:
        return packet.interface
    known = {
        "l4proto": None if packet.protocol == "arp" else packet.protocol,
        "nfproto": None if packet.protocol == "arp" else "ipv4",
        "protocol": "arp" if packet.protocol == "arp" else "ip",
        "pkttype": None
        if packet.protocol == "arp" or not incoming
        else "multicast"
        if early
        else "host",
    }
    return known.get(str(meta.get("key")))


def _fib(walk: _ChainWalk, fib: Mapping[str, Any]) -> str | None:
    address = "daddr" if walk.packet.way is Way.IN else "saddr"
    return (
        "local"
        if fib.get("result") == "type"
        and address in fib.get("flags", ())
        and walk.packet.protocol != "arp"
        else None
    )


_READERS: dict[str, Callable[[_ChainWalk, Mapping[str, Any]], str | None]] = {
    "payload": _payload,
    "meta": _meta,
    "fib": _fib,
}
_NUMBERS = {
    "tcp": ("6",),
    "udp": ("17",),
    "icmp": ("1",),
    "ip": ("2048", "0x0800"),
    "arp": ("2054", "0x0806"),
    "ipv4": ("2",),
}


def _equals(walk: _ChainWalk, key: tuple[str, str, str], known: str, right: Any) -> bool | None:
    """Whether a value is what stands on the right side, or among it."""
    if isinstance(right, str) and right.startswith("@"):
        named = walk.ruleset.sets.get((*key[:2], right[1:]))
        return (
            None if named is None else _any(_equals(walk, key, known, element) for element in named)
        )
    if isinstance(right, dict):
        return _in_range(walk, key, known, right)
    if isinstance(right, list):
        return _any(_equals(walk, key, known, element) for element in right)
    text = str(right)
    if text.endswith("*"):
        return known.startswith(text[:-1])
    return text == known or text in _NUMBERS.get(known, ())


def _in_range(
    walk: _ChainWalk, key: tuple[str, str, str], known: str, right: Mapping[str, Any]
) -> bool | None:
    kind, value = _first(right)
    try:
        if kind == "set":
            return _any(_equals(walk, key, known, element) for element in value)
        if kind == "elem":
            return _equals(walk, key, known, value["val"])
        if kind == "prefix":
            return IPv4Address(known) in IPv4Network(
                f"{value['addr']}/{value['len']}", strict=False
            )
        if kind == "range":
            return IPv4Address(value[0]) <= IPv4Address(known) <= IPv4Address(value[1])
    except (ValueError, KeyError, TypeError):
        return None
    return None


def _first(expression: Any) -> tuple[str, Any]:
    """What an expression is, and what it is made of: nft writes objects of one key."""
    pair: tuple[str, Any] = (
        next(iter(expression.items()), ("", {})) if isinstance(expression, dict) else ("", {})
    )
    return pair


def _any(results: Iterable[bool | None]) -> bool | None:
    found = list(results)
    return True if True in found else None if None in found else False


def _names(match: Mapping[str, Any]) -> bool:
    """Whether a test that the packet passes is for the VIP, or a network that is hardly more than its own."""
    left, right = match["left"], match["right"]
    payload = left.get("payload") if isinstance(left, dict) else None
    of_address = isinstance(payload, dict) and payload.get("field") in (
        "daddr",
        "saddr",
        "daddr ip",
        "saddr ip",
    )
    prefix = right.get("prefix", {}) if isinstance(right, dict) else {}
    return of_address and match.get("op") == "==" and prefix.get("len", 32) >= OWN_NETWORK


def _kind_of(value: Any) -> str:
    return str(value.get("type")) if isinstance(value, dict) else ""
