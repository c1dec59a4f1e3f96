"""Makes rules as `nft -j list table` prints them, about the VIP `VIP`."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

VIP = IPv4Address("198.51.100.1")
DROP: dict[str, Any] = {"drop": None}
ACCEPT: dict[str, Any] = {"accept": None}
NOTRACK: dict[str, Any] = {"notrack": None}
RETURN: dict[str, Any] = {"return": None}
COUNTER: dict[str, Any] = {"counter": {"packets": 0, "bytes": 0}}
LIMIT: dict[str, Any] = {"limit": {"rate": 1, "per": "second"}}
Expression = dict[str, Any]


def match(left: Any, right: Any, operator: str = "==") -> Expression:
    return {"match": {"op": operator, "left": left, "right": right}}


def payload(protocol: str, name: str) -> Expression:
    return {"payload": {"protocol": protocol, "field": name}}


def meta(key: str) -> Expression:
    return {"meta": {"key": key}}


DADDR, SADDR, DPORT = payload("ip", "daddr"), payload("ip", "saddr"), payload("tcp", "dport")
TO_VIP = match(DADDR, str(VIP))
STATE = match({"ct": {"key": "state"}}, ["established", "related"], "in")


def chain(hook: str = "input", priority: int = 0, **more: Any) -> Expression:
    return {
        "chain": {
            "family": "inet",
            "table": "t",
            "name": "c",
            "type": "filter",
            "hook": hook,
            "prio": priority,
            "policy": "accept",
            **more,
        }
    }


def rule(*expressions: Any, chain: str = "c", handle: int = 7, family: str = "inet") -> Expression:
    return {
        "rule": {
            "family": family,
            "table": "t",
            "chain": chain,
            "handle": handle,
            "expr": list(expressions),
        }
    }
