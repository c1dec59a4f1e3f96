"""The doctor follows packets through other programs' rules: certain drops, possible drops, none."""

from __future__ import annotations

from typing import Any

import pytest

from maglev0.operator.doctor.filters import walk
from maglev0.operator.doctor.filters.foreign_rules import Packet, Ruleset, Way
from maglev0.operator.doctor.filters.walk import Hit
from tests.support.nft_objects import (
    ACCEPT,
    COUNTER,
    DADDR,
    DPORT,
    DROP,
    LIMIT,
    NOTRACK,
    RETURN,
    SADDR,
    STATE,
    TO_VIP,
    VIP,
    Expression,
    chain,
    match,
    meta,
    payload,
    rule,
)

MAC = "03:bf:c6:33:64:01"


def hits(*objects: Expression, protocol: str = "tcp", way: Way = Way.IN) -> list[Hit]:
    return walk.hits(Ruleset([{"metainfo": {}}, *objects]), Packet(way, protocol, VIP, "eth0", MAC))


def surely(*objects: Expression, protocol: str = "tcp", way: Way = Way.IN) -> bool:
    """Whether such a packet is dropped for certain."""
    found = hits(*objects, protocol=protocol, way=way)
    return any(hit.certain and hit.verdict in ("drop", "reject") for hit in found)


@pytest.mark.parametrize(
    ("tests", "dropped"),
    [
        ([], True),
        ([TO_VIP], True),
        ([match(DADDR, "10.0.0.1")], False),
        ([match(DADDR, "10.0.0.1", "!=")], True),
        ([match(DADDR, {"set": ["10.0.0.1", str(VIP)]})], True),
        ([match(DADDR, [str(VIP)])], True),
        ([match(DADDR, {"prefix": {"addr": "198.51.100.0", "len": 24}})], True),
        ([match(DADDR, {"prefix": {"addr": "10.0.0.0", "len": 8}})], False),
        ([match(DADDR, {"range": ["198.51.100.0", "198.51.100.9"]})], True),
        ([match(DADDR, {"range": ["x", "y"]})], False),
        ([match(DADDR, {"concat": []})], False),
        ([match(DADDR, {"elem": {"val": str(VIP)}})], True),
        ([match({"&": [DADDR, 255]}, 0)], False),
        ([match(meta("iifname"), "eth0")], True),
        ([match(meta("iifname"), "eth*")], True),
        ([match(meta("iifname"), "lo")], False),
        ([match(meta("oifname"), "eth0")], False),
        ([match(meta("l4proto"), {"set": ["tcp", "udp"]})], True),
        ([match(meta("l4proto"), 6)], True),
        ([match(payload("ip", "protocol"), "udp")], False),
        ([match(meta("nfproto"), "ipv4")], True),
        ([match(meta("protocol"), "ip6")], False),
        ([match(meta("mark"), 1)], False),
        ([match({"fib": {"result": "type", "flags": ["daddr"]}}, "local")], True),
        ([match({"fib": {"result": "oif", "flags": ["saddr"]}}, 0)], False),
        ([match(payload("udp", "dport"), 53)], False),
        ([match(payload("th", "dport"), 53)], False),
        ([match(payload("ip6", "daddr"), "::1")], False),
        ([match(payload("ether", "daddr"), MAC)], True),
        ([match({"&": [payload("udp", "length"), 1]}, 1)], False),
        ([match("10", "10")], False),
        ([match({"payload": {"base": "nh", "offset": 0, "len": 8}}, 1)], False),
        ([match({"rt": {"key": "mtu"}}, 1)], False),
        ([match(DADDR, str(VIP), "<")], False),
        ([match(meta("pkttype"), "host")], True),
        ([match(meta("pkttype"), "multicast")], False),
        ([STATE], False),
        ([LIMIT], False),
        ([{"xt": {"type": "match", "name": "recent"}}], False),
        ([COUNTER, TO_VIP], True),
        (["nonsense"], False),
    ],
)
def test_a_drop_behind_tests(tests: list[Any], dropped: bool) -> None:
    assert surely(chain(), rule(*tests, DROP)) is dropped


def test_before_the_second_stage_the_packets_are_multicasts() -> None:
    drop = rule(match(meta("pkttype"), "multicast"), DROP)
    assert surely(chain("prerouting", -300), drop)
    assert not surely(chain("prerouting", -100), drop)


@pytest.mark.parametrize(
    ("made", "dropped"),
    [
        ({"hook": "forward"}, False),
        ({"hook": "output"}, False),
        ({"type": "nat"}, False),
        ({"family": "ip6"}, False),
        ({"family": "netdev", "hook": "ingress", "dev": "eth0"}, True),
        ({"family": "netdev", "hook": "ingress", "dev": ["eth1", "eth0"]}, True),
        ({"family": "netdev", "hook": "ingress", "dev": "eth1"}, False),
    ],
)
def test_chains_that_the_packets_pass(made: dict[str, Any], dropped: bool) -> None:
    assert surely(chain(**made), rule(DROP, family=made.get("family", "inet"))) is dropped


def test_answers_leave_by_other_hooks_with_the_vip_as_their_source() -> None:
    drop = rule(
        match(SADDR, str(VIP)),
        match(meta("oifname"), "eth0"),
        match({"fib": {"result": "type", "flags": ["saddr"]}}, "local"),
        DROP,
    )
    assert surely(chain("output"), drop, way=Way.OUT)
    assert not surely(chain("input"), drop, way=Way.OUT)


def test_a_policy_drops_what_no_rule_can_have_accepted() -> None:
    closed = chain(policy="drop")
    elsewhere = rule(match(meta("iifname"), "lo"), ACCEPT)
    assert surely(closed, elsewhere)
    assert hits(closed, elsewhere)[0].where == "the policy of chain inet t c"
    assert not surely(closed, rule(STATE, ACCEPT))
    assert not surely(closed, rule(TO_VIP, ACCEPT))
    assert not surely(closed, rule(match(DPORT, 80), {"queue": None}))


def test_what_earlier_rules_may_have_accepted_is_dropped_for_certain_only_by_name() -> None:
    assert not surely(chain(), rule(match(DPORT, 22), ACCEPT), rule(DROP))
    assert not surely(chain(), rule(match(DPORT, 22), ACCEPT), rule(TO_VIP, DROP))
    assert hits(chain(), rule(match(DPORT, 22), ACCEPT), rule(TO_VIP, DROP)) == [
        Hit("drop", "inet", "t", "c", 7, certain=False, named=True)
    ]
    assert not surely(chain(), rule(match(DPORT, 22), RETURN), rule(DROP))
    assert not surely(chain(), rule(RETURN), rule(DROP))


def test_rules_that_name_the_vip_take_some_of_its_packets() -> None:
    some = [Hit("reject", "inet", "t", "c", 7, certain=False, named=True)]
    reject: Expression = {"reject": {"type": "tcp reset"}}
    assert hits(chain(), rule(TO_VIP, match(DPORT, 22), reject)) == some
    assert hits(chain(), rule(match(DPORT, 22), reject)) == []
    assert (
        hits(
            chain(),
            rule(
                match(DADDR, {"prefix": {"addr": "198.0.0.0", "len": 8}}), match(DPORT, 22), reject
            ),
        )
        == []
    )
    assert hits(chain(), rule(match(DADDR, "10.0.0.1", "!="), match(DPORT, 22), reject)) == []


def named(name: str, *elements: Any) -> Expression:
    return {"set": {"family": "inet", "table": "t", "name": name, "elem": list(elements)}}


def test_named_sets_are_looked_into() -> None:
    by_set = rule(match(DADDR, "@vips"), DROP)
    assert surely(chain(), by_set, named("vips", "10.0.0.1", {"elem": {"val": str(VIP)}}))
    assert not surely(chain(), by_set, named("vips", "10.0.0.1"))
    assert not surely(chain(), by_set, {"set": {"family": "inet", "table": "t", "name": "vips"}})
    assert not surely(chain(), by_set)


def jump(kind: str = "jump") -> Expression:
    return {kind: {"target": "sub"}}


SUB: Expression = {"chain": {"family": "inet", "table": "t", "name": "sub"}}


def test_jumps_are_followed() -> None:
    inside = rule(DROP, chain="sub", handle=9)
    assert surely(chain(), SUB, rule(jump()), inside)
    assert surely(chain(), SUB, rule(TO_VIP, jump("goto")), inside)
    assert not surely(chain(), SUB, rule(match(meta("iifname"), "lo"), jump()), inside)
    # A drop after a test that may have accepted the packet inside the jump is not certain.
    assert hits(chain(), SUB, rule(match(DPORT, 22), jump()), inside) == []
    assert hits(chain(), SUB, rule(TO_VIP, match(DPORT, 22), jump()), inside) == [
        Hit("drop", "inet", "t", "sub", 9, certain=False, named=True)
    ]
    # An accept inside the jump accepts the packet.
    closed = chain(policy="drop")
    assert hits(closed, SUB, rule(jump()), rule(ACCEPT, chain="sub")) == []
    assert hits(closed, SUB, rule(match(DPORT, 22), jump()), rule(ACCEPT, chain="sub")) == []
    # After a jump that returns the chain continues; after a goto it does not.
    assert surely(chain(), SUB, rule(jump()), rule(DROP))
    assert not surely(chain(), SUB, rule(jump("goto")), rule(DROP))
    assert surely(closed, SUB, rule(jump("goto")))


def test_a_ring_of_jumps_comes_to_an_end() -> None:
    assert hits(chain(), SUB, rule(jump()), rule(jump(), chain="sub")) == []


def vmap(key: Any, *pairs: Any) -> Expression:
    return {"vmap": {"key": key, "data": {"set": list(pairs)}}}


def test_verdict_maps() -> None:
    assert surely(chain(), rule(vmap(meta("l4proto"), ["udp", ACCEPT], ["tcp", DROP])))
    assert not surely(chain(), rule(vmap(meta("l4proto"), ["udp", DROP])))
    assert surely(chain(), rule(vmap(DADDR, [str(VIP), DROP])))
    closed = chain(policy="drop")
    assert not surely(
        closed, rule(vmap({"ct": {"key": "state"}}, ["established", ACCEPT], ["invalid", DROP]))
    )
    assert surely(closed, rule(vmap({"ct": {"key": "state"}}, ["invalid", DROP], "nonsense")))
    mapped = rule({"vmap": {"key": meta("l4proto"), "data": "@verdicts"}})
    assert surely(chain(), mapped, {"map": named("verdicts", ["tcp", DROP])["set"]})
    assert not surely(closed, mapped)  # it may accept


def test_statements_that_are_not_known_may_be_tests() -> None:
    tests: list[Expression] = [
        {"quota": {"val": 1}},
        {"ct count": {"val": 10}},
        {"set": {"op": "add", "elem": SADDR, "set": "@seen"}},
    ]
    assert not any(surely(chain(), rule(test, DROP)) for test in tests)
    harmless: list[Expression] = [
        COUNTER,
        {"log": None},
        {"mangle": {"key": meta("mark"), "value": 1}},
    ]
    assert all(surely(chain(), rule(statement, DROP)) for statement in harmless)
    elsewhere: list[Expression] = [
        {"dnat": {"addr": "10.0.0.1"}},
        {"xt": {"type": "target", "name": "TARPIT"}},
    ]
    assert not any(surely(chain(policy="drop"), rule(statement)) for statement in elsewhere)


def test_untracked_tcp() -> None:
    early = chain("prerouting", -300)
    assert hits(early, rule(NOTRACK)) == [
        Hit("notrack", "inet", "t", "c", 7, certain=True, named=False)
    ]
    assert hits(early, rule(TO_VIP, match(DPORT, 80), NOTRACK)) == [
        Hit("notrack", "inet", "t", "c", 7, certain=False, named=True)
    ]
    assert hits(early, rule(match(DPORT, 80), NOTRACK)) == [
        Hit("notrack", "inet", "t", "c", 7, certain=False, named=False)
    ]
    assert hits(early, rule(TO_VIP, {"xt": {"type": "target", "name": "CT"}})) == [
        Hit("notrack", "inet", "t", "c", 7, certain=False, named=False)
    ]
    assert hits(early, rule(match(payload("udp", "dport"), 53), NOTRACK)) == []
    assert hits(early, rule(NOTRACK), protocol="udp") == []
    assert hits(chain("prerouting", -100), rule(NOTRACK)) == []
    assert hits(chain("ingress", -300), rule(NOTRACK)) == []
    inside = hits(early, SUB, rule(match(DPORT, 80), jump()), rule(NOTRACK, chain="sub", handle=9))
    assert inside == [Hit("notrack", "inet", "t", "sub", 9, certain=False, named=False)]


def test_arp() -> None:
    incoming = chain(family="arp")
    drop = rule(match(payload("arp", "daddr ip"), str(VIP)), DROP, family="arp")
    assert surely(incoming, drop, protocol="arp")
    assert not surely(incoming, drop)
    assert not surely(
        incoming,
        rule(match(payload("arp", "operation"), "request"), DROP, family="arp"),
        protocol="arp",
    )
    assert not surely(
        incoming, rule(match(meta("l4proto"), "tcp"), DROP, family="arp"), protocol="arp"
    )
    assert surely(
        incoming, rule(match(meta("protocol"), "arp"), DROP, family="arp"), protocol="arp"
    )
    assert not surely(
        incoming, rule(match(payload("ip", "daddr"), str(VIP)), DROP, family="arp"), protocol="arp"
    )
