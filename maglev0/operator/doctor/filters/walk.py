"""Follows a packet through the rules of other programs: where they drop it, or untrack it. Pure.

It imports no I/O. A packet is known in part: it is for the VIP, it arrives on the traffic
interface, and it has one protocol; its source and ports may be any. So a test is true, false or
unknown (None). A drop is certain if no packet of the kind can escape it. A rule that names the VIP
and more drops *some* of its packets.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from maglev0.operator.doctor.filters import matching
from maglev0.operator.doctor.filters.foreign_rules import ChainContext, Packet, Ruleset

MAX_DEPTH = 16  # the kernel allows as many nested jumps (NFT_JUMP_STACK_SIZE)
CONNTRACK = -200  # the priority of connection tracking
# The packet leaves the chain, and where it ends is unknown.
_ELSEWHERE = {"queue", "tproxy", "synproxy", "redirect", "dnat", "fwd"}
_VERDICTS = {"vmap", "drop", "reject", "accept", "continue", "return", "jump", "goto"} | _ELSEWHERE
# The statements that test nothing.
_STATEMENTS = {"notrack", "counter", "log", "mangle", "comment"} | _VERDICTS


class Hit(NamedTuple):
    """Where packets are dropped or untracked: a rule or, without a handle, a chain's policy.

    `certain`: this holds for all packets of the kind, otherwise for some. `named`: the rule names
    the VIP; a rule that is neither may not apply at all.
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
        """The place, as nft names it."""
        place = f"{self.family} {self.table} {self.chain}"
        return (
            f"the policy of chain {place}"
            if self.handle is None
            else f"rule {self.handle} of chain {place}"
        )


@dataclass
class _ChainWalk(ChainContext):
    """The way of a packet through one base chain, and what happened on it."""

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
    """Where rules drop such packets, or (only tcp) keep them from connection tracking.

    These are the rules that match all such packets, or that name the VIP.
    """
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
    """What one rule does to the packet; None if the next rule follows."""
    matched: bool | None = True
    names_vip = False
    for expression in rule.get("expr", ()):
        kind, value = matching.split_expression(expression)
        if kind == "match":
            result = matching.matches(walk, key, value)
            if result is False:
                return None
            matched = matched if result else None
            names_vip |= bool(result) and matching.names_vip(value)
            continue
        is_target = kind == "xt" and matching.kind_of(value) == "target"
        if kind not in _STATEMENTS and not is_target:  # a test, or an unknown statement
            matched = None
            continue
        if kind == "vmap":
            return _vmap(walk, key, rule, value, depth)
        end = _verdict(walk, _Reached(key, rule["handle"], matched, names_vip), kind, value, depth)
        if end is not None or kind in ("goto", "return", "drop", "reject", "accept"):
            return end
    return None


class _Reached(NamedTuple):
    """A rule with a verdict; `matched`: all its tests were true (None: perhaps)."""

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
    # After connection tracking the statement has no effect; maglev0 follows only TCP connections.
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
    """A verdict map: a known key gives one verdict, an unknown one any of them, or none."""
    data = value.get("data")
    pairs = (
        data.get("set", [])
        if isinstance(data, dict)
        else walk.ruleset.sets.get((*key[:2], str(data).removeprefix("@")))
    )
    if pairs is None:
        walk.may_have_left = True
        return None
    known = matching.known_value(walk, value.get("key"))
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], dict):
            continue
        result = None if known is None else matching.equals(walk, key, known, pair[0])
        if result is False:
            continue
        kind, target = next(iter(pair[1].items()))
        reached = _Reached(
            key,
            rule["handle"],
            result,
            bool(result)
            and matching.names_vip({"op": "==", "left": value.get("key"), "right": pair[0]}),
        )
        end = _verdict(walk, reached, kind, target, depth)
        if result:
            return end
    return None
