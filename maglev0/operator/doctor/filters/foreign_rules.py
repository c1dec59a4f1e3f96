"""The rules of other programs, and a packet of which some fields are known. Pure.

It imports no I/O. Rules are objects as `nft -j list table` prints them (libnftables-json(5)).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

_INPUT_HOOKS = {"ingress", "prerouting", "input"}
_OUTPUT_HOOKS = {"output", "postrouting", "egress"}


class Way(enum.StrEnum):
    """Which way a packet goes."""

    IN = "arrive for"
    OUT = "leave from"


@dataclass(frozen=True)
class Packet:
    """Any packet of the VIP of one protocol: tcp, udp, icmp or arp."""

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
        """The base chains that such a packet passes, in no particular order."""
        for key, chain in self.chains.items():
            if _passes(packet, chain):
                yield key


def _passes(packet: Packet, chain: Mapping[str, Any]) -> bool:
    hooks = _INPUT_HOOKS if packet.way is Way.IN else _OUTPUT_HOOKS
    # A NAT chain sees only the first packet of a connection, and drops nothing.
    if chain.get("hook") not in hooks or chain.get("type") == "nat":
        return False
    families = {"arp"} if packet.protocol == "arp" else {"ip", "inet"}
    devices = chain.get("dev", "")
    on_device = packet.interface in ([devices] if isinstance(devices, str) else devices)
    return chain["family"] in families or (chain["family"] == "netdev" and on_device)


@dataclass
class ChainContext:
    """A packet in one base chain."""

    ruleset: Ruleset
    packet: Packet
    base: Mapping[str, Any]
