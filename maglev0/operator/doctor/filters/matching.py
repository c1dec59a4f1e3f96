"""Tests of nftables rules, for a packet of which some fields are known. Pure.

It imports no I/O. A test is true, false, or unknown (None) if it looks at a field that may have any
value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from maglev0.operator.doctor.filters.foreign_rules import ChainContext, Packet, Way

SECOND_STAGE = -150  # after it, packets that maglev0 accepts are no longer multicast (ruleset.py)
OWN_NETWORK = 24  # a rule for a larger network is not about the VIP


def matches(at: ChainContext, key: tuple[str, str, str], match: Mapping[str, Any]) -> bool | None:
    """Whether the packet passes a test of a rule in the chain `key`; None if unknown."""
    left = match["left"]
    foreign = _foreign_protocol(at.packet, left)
    if foreign:
        return False
    known = known_value(at, left)
    operator = match.get("op")
    if known is None or operator not in ("==", "!=", "in"):
        return None
    result = equals(at, key, known, match["right"])
    return None if result is None else result is (operator != "!=")


_BY_PROTOCOL = {"tcp": {"tcp", "th"}, "udp": {"udp", "th"}, "icmp": {"icmp"}, "arp": {"arp"}}


def _foreign_protocol(packet: Packet, left: Any) -> bool:
    """Whether the test looks at a header that the packet does not have."""
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


def known_value(at: ChainContext, left: Any) -> str | None:
    """The value that the packet has there; None if it may have any."""
    if not isinstance(left, dict):
        return None
    kind, inner = next(iter(left.items()))
    reader = _READERS.get(kind)
    return reader(at, inner) if reader is not None and isinstance(inner, dict) else None


def _payload(at: ChainContext, payload: Mapping[str, Any]) -> str | None:
    packet, place = at.packet, (str(payload.get("protocol")), str(payload.get("field")))
    incoming = packet.way is Way.IN
    known = {
        ("ip", "daddr" if incoming else "saddr"): str(packet.vip),
        ("ip", "protocol"): packet.protocol,
        ("arp", "daddr ip" if incoming else "saddr ip"): str(packet.vip),
        ("ether", "daddr"): packet.cluster_mac if incoming and packet.protocol != "arp" else None,
    }
    return known.get(place)


def _meta(at: ChainContext, meta: Mapping[str, Any]) -> str | None:
    packet, incoming = at.packet, at.packet.way is Way.IN
    early = int(at.base.get("prio", 0)) < SECOND_STAGE and at.base.get("hook") in (
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


def _fib(at: ChainContext, fib: Mapping[str, Any]) -> str | None:
    address = "daddr" if at.packet.way is Way.IN else "saddr"
    return (
        "local"
        if fib.get("result") == "type"
        and address in fib.get("flags", ())
        and at.packet.protocol != "arp"
        else None
    )


_READERS: dict[str, Callable[[ChainContext, Mapping[str, Any]], str | None]] = {
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


def equals(at: ChainContext, key: tuple[str, str, str], known: str, right: Any) -> bool | None:
    """Whether a value equals the right side of a test, or is an element of it."""
    if isinstance(right, str) and right.startswith("@"):
        named = at.ruleset.sets.get((*key[:2], right[1:]))
        return None if named is None else _any(equals(at, key, known, element) for element in named)
    if isinstance(right, dict):
        return _in_range(at, key, known, right)
    if isinstance(right, list):
        return _any(equals(at, key, known, element) for element in right)
    text = str(right)
    if text.endswith("*"):
        return known.startswith(text[:-1])
    return text == known or text in _NUMBERS.get(known, ())


def _in_range(
    at: ChainContext, key: tuple[str, str, str], known: str, right: Mapping[str, Any]
) -> bool | None:
    kind, value = split_expression(right)
    try:
        if kind == "set":
            return _any(equals(at, key, known, element) for element in value)
        if kind == "elem":
            return equals(at, key, known, value["val"])
        if kind == "prefix":
            return IPv4Address(known) in IPv4Network(
                f"{value['addr']}/{value['len']}", strict=False
            )
        if kind == "range":
            return IPv4Address(value[0]) <= IPv4Address(known) <= IPv4Address(value[1])
    except (ValueError, KeyError, TypeError):
        return None
    return None


def split_expression(expression: Any) -> tuple[str, Any]:
    """The kind of an expression, and its content: nft writes objects with one key."""
    pair: tuple[str, Any] = (
        next(iter(expression.items()), ("", {})) if isinstance(expression, dict) else ("", {})
    )
    return pair


def _any(results: Iterable[bool | None]) -> bool | None:
    found = list(results)
    return True if True in found else None if None in found else False


def names_vip(match: Mapping[str, Any]) -> bool:
    """Whether a test that the packet passes names the VIP, or a network not much larger."""
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


def kind_of(value: Any) -> str:
    """What an expression of iptables is: a match or a target; "" if nft does not say."""
    return str(value.get("type")) if isinstance(value, dict) else ""
