"""Translates rules of iptables-legacy, which nft does not list, to nft's JSON objects. Pure.

It imports no I/O. Its input is the output of `iptables-legacy-save` (iptables-save(8)).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

OURS = "maglev0-"  # the names of the chains that guard a CLUSTERIP rule begin so
MARK = " (iptables-legacy)"  # after the table's name, where a finding names a rule
# enum nf_ip_hook_priorities, linux/netfilter_ipv4.h
_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
_BUILT_IN = {
    "PREROUTING": "prerouting",
    "INPUT": "input",
    "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}
_FIELDS = {
    "-d": {"payload": {"protocol": "ip", "field": "daddr"}},
    "-s": {"payload": {"protocol": "ip", "field": "saddr"}},
    "-p": {"payload": {"protocol": "ip", "field": "protocol"}},
    "-i": {"meta": {"key": "iifname"}},
    "-o": {"meta": {"key": "oifname"}},
}
_VERDICTS: dict[str, dict[str, Any]] = {
    "DROP": {"drop": None},
    "REJECT": {"reject": None},
    "ACCEPT": {"accept": None},
    "RETURN": {"return": None},
    "NOTRACK": {"notrack": None},
}
_GO_ON = {
    "LOG",
    "NFLOG",
    "MARK",
    "CONNMARK",
    "TCPMSS",
    "TOS",
    "DSCP",
    "TTL",
    "CHECKSUM",
    "TRACE",
    "AUDIT",
    "SET",
}
_UNKNOWN: dict[str, Any] = {"limit": None}  # a test whose result is unknown


def objects(saved: str) -> Iterator[dict[str, Any]]:
    """The chains and rules, as nft prints them; a rule's handle is its number in its chain."""
    table, numbers = "", dict[str, int]()
    for line in saved.splitlines():
        if line.startswith("*"):
            table, numbers = line[1:], {}
        elif line.startswith(":") and table in _PRIORITIES:
            yield {"chain": _chain(table, line)}
        elif line.startswith("-A ") and table in _PRIORITIES:
            words = shlex.split(line)
            numbers[words[1]] = numbers.get(words[1], 0) + 1
            yield {
                "rule": {
                    "family": "ip",
                    "table": table + MARK,
                    "chain": words[1],
                    "handle": numbers[words[1]],
                    "expr": _expressions(words[2:]),
                }
            }


def _chain(table: str, line: str) -> dict[str, Any]:
    name, policy, *_counters = line[1:].split()
    chain: dict[str, Any] = {"family": "ip", "table": table + MARK, "name": name}
    if name in _BUILT_IN:
        chain |= {
            "type": "filter",
            "hook": _BUILT_IN[name],
            "prio": _PRIORITIES[table],
            "policy": policy.lower(),
        }
    return chain


def _expressions(words: list[str]) -> list[dict[str, Any]]:
    """The tests that are understood, one unknown test for all others, and the verdict."""
    found: list[dict[str, Any]] = []
    operator, position = "==", 0
    while position < len(words):
        word, value = words[position], words[position + 1] if position + 1 < len(words) else ""
        if word == "!":
            operator, position = "!=", position + 1
            continue
        if word in ("-j", "-g"):
            return [*found, *_target(word, value, words[position + 2 :])]
        if word in _FIELDS:
            found.append({"match": {"op": operator, "left": _FIELDS[word], "right": _right(value)}})
        elif word == "-m" and value in ("tcp", "udp", "icmp", "comment"):
            pass  # a match module that tests nothing by itself
        elif word == "--comment":
            pass
        elif _UNKNOWN not in found:
            found.append(_UNKNOWN)
        operator, position = "==", position + (2 if word.startswith("-") else 1)
    return found


def _right(value: str) -> Any:
    address, slash, length = value.partition("/")
    if slash and length.isdecimal():
        return address if length == "32" else {"prefix": {"addr": address, "len": int(length)}}
    return f"{value[:-1]}*" if value.endswith("+") else value


def _target(word: str, target: str, options: list[str]) -> list[dict[str, Any]]:
    if target == "CT":
        return [{"notrack": None}] if "--notrack" in options else []
    if target in _VERDICTS:
        return [_VERDICTS[target]]
    if target in _GO_ON:
        return []
    if target.startswith(OURS):
        return []
    if target.isupper() and "-" not in target:
        return [{"xt": {"type": "target", "name": target}}]
    return [{"goto" if word == "-g" else "jump": {"target": target}}]
