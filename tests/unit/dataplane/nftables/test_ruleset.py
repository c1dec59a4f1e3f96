from __future__ import annotations

import re
from dataclasses import fields, replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maglev0.core.service import HashMode, Service
from maglev0.dataplane.nftables import ruleset
from maglev0.dataplane.nftables.ruleset import Hook
from tests.support.virtual_service import SERVICE

OTHERS: dict[str, Any] = {
    "vip": IPv4Address("198.51.100.2"),
    "interface": "eth1",
    "cluster_mac": "03:bf:c6:33:64:02",
    "total_nodes": 6,
    "hash_mode": HashMode.SOURCE_IP_PORT,
    "hash_seed": 8,
}

totals = st.one_of(st.integers(1, 16), st.integers(1, 1 << 20))


def chain(text: str, name: str, family: str = "inet") -> list[str]:
    """The rules that a text puts into a chain."""
    return re.findall(
        rf"^add rule {family} maglev0_198\.51\.100\.1 {name} (.*)$", text, re.MULTILINE
    )


INSTALLED = ruleset.install(SERVICE, Hook.INGRESS, mac_added=True)
PREPARED = ruleset.prepare(SERVICE, Hook.INGRESS, mac_added=True)
IN_PREROUTING = ruleset.install(SERVICE, Hook.PREROUTING, mac_added=True)
ICMP_ERRORS = "icmp type { destination-unreachable, redirect, time-exceeded, parameter-problem }"
NO_ICMP_ERROR = ICMP_ERRORS.replace("type {", "type != {")
WHOLE = "ip frag-off & 0x3fff == 0"
ACCEPT = "meta pkttype set host accept"
PORTS = {
    HashMode.SOURCE_IP_PORT: "ip saddr . th sport",
    HashMode.SOURCE_IP_PORT_DEST_PORT: "ip saddr . th sport . th dport",
}


# The rules.


def test_the_rules_judge_what_arrives_for_the_vip_on_the_interface_and_nothing_else() -> None:
    for text, judged in (
        (INSTALLED, "ip daddr 198.51.100.1 "),
        (IN_PREROUTING, 'iifname "eth0" ip daddr 198.51.100.1 '),
    ):
        assert all(rule.startswith(judged) for rule in chain(text, "early"))
    assert chain(INSTALLED, "second") == ['iifname "eth0" ip daddr 198.51.100.1 goto judge']
    assert chain(INSTALLED, "input", "arp") == ['iifname != "eth0" arp daddr ip 198.51.100.1 drop']
    assert chain(INSTALLED, "output", "arp") == [
        'oifname != "eth0" arp saddr ip 198.51.100.1 drop',
        'oifname "eth0" arp saddr ip 198.51.100.1 arp saddr ether set 03:bf:c6:33:64:01',
    ]
    assert set(re.findall(r"^(?:add|flush) \w+ (\w+ \S+)", INSTALLED, re.MULTILINE)) == {
        "inet maglev0_198.51.100.1",
        "arp maglev0_198.51.100.1",
    }


def test_prepared_they_are_the_same_rules_that_nothing_leads_to() -> None:
    assert INSTALLED.startswith(PREPARED)
    assert set(INSTALLED.splitlines()) - set(PREPARED.splitlines()) == {
        f"add rule inet maglev0_198.51.100.1 {name} {rule}"
        for name in ("early", "second")
        for rule in chain(INSTALLED, name)
    }
    assert ruleset.fingerprint(SERVICE, Hook.INGRESS) not in PREPARED


def test_the_second_stage_judges_in_this_order() -> None:
    assert chain(INSTALLED, "judge") == [
        "meta l4proto vmap { tcp : goto judge_tcp, icmp : goto judge_icmp }",
        "goto new_flow",
    ]
    assert chain(INSTALLED, "judge_tcp") == [
        "tcp flags & (fin | syn | rst | ack) == syn goto new_flow",
        f"ct state established,related counter name established {ACCEPT}",
        "counter name not_established drop",
    ]
    assert chain(INSTALLED, "judge_icmp") == [
        f"{NO_ICMP_ERROR} goto new_flow",
        f"ct state related counter name established {ACCEPT}",
        "counter name not_established drop",
    ]


def early(service: Service) -> list[str]:
    """What the early stage drops, without what all its rules begin and end with."""
    begin, end = "ip daddr 198.51.100.1 ", " mod 5 seed 0x7 offset 1 != @admitted drop"
    rules = [
        rule.partition(" comment ")[0]
        for rule in chain(ruleset.install(service, Hook.INGRESS, mac_added=False), "early")
    ]
    assert all(rule.startswith(begin) and rule.endswith(end) for rule in rules)
    return [rule.removeprefix(begin).removesuffix(end) for rule in rules]


def test_the_early_stage_lets_icmp_errors_pass_and_what_may_be_one() -> None:
    assert early(SERVICE) == [
        "ip protocol != icmp jhash ip saddr",
        f"{WHOLE} {NO_ICMP_ERROR} jhash ip saddr",
    ]


@pytest.mark.parametrize(("mode", "key"), PORTS.items())
def test_the_early_stage_hashes_tcp_and_udp_by_their_ports(mode: HashMode, key: str) -> None:
    assert early(replace(SERVICE, hash_mode=mode)) == [
        f"{WHOLE} ip protocol {{ tcp, udp }} jhash {key}",
        f"{WHOLE} ip protocol != {{ tcp, udp, icmp }} jhash ip saddr",
        f"{WHOLE} {NO_ICMP_ERROR} jhash ip saddr",
    ]


def test_the_early_stage_stands_where_it_is_told() -> None:
    for text, place in ((INSTALLED, 'ingress device "eth0"'), (IN_PREROUTING, "prerouting")):
        assert f"early {{ type filter hook {place} priority -450; policy accept; }}" in text


def test_a_new_flow_needs_a_lease_and_a_bucket_in_force() -> None:
    assert chain(INSTALLED, "new_flow") == [
        "ip daddr vmap @lease_slot",
        "counter name no_lease drop",
    ]
    for lease in ("lease_a", "lease_b"):
        assert chain(INSTALLED, lease) == [
            f"ip daddr @{lease} goto leased",
            "counter name no_lease drop",
        ]
    assert chain(INSTALLED, "leased") == [
        "ip daddr vmap @owned_slot",
        "counter name not_owned drop",
    ]


JUDGES = (
    "judge_tcp",
    "judge_icmp",
    "new_flow",
    "lease_a",
    "lease_b",
    "leased",
    "owned_a",
    "owned_b",
    "owned_both",
)


@pytest.mark.parametrize("name", JUDGES)
def test_what_no_rule_accepts_is_dropped(name: str) -> None:
    assert re.fullmatch(r"counter name \w+ drop", chain(INSTALLED, name)[-1])


def test_every_counter_that_is_named_is_declared_before() -> None:
    declared = re.findall(
        r"^add counter inet maglev0_198\.51\.100\.1 (\w+)$", INSTALLED, re.MULTILINE
    )
    assert (
        set(declared)
        == set(re.findall(r"counter name (\w+)", INSTALLED))
        == {*ruleset.ACCEPTED, *ruleset.REFUSED}
    )
    assert INSTALLED.rindex("add counter") < INSTALLED.index("counter name")


@pytest.mark.parametrize("hook", Hook)
def test_what_is_refused_early_is_counted_where_that_was_asked_for_and_the_rules_mean_the_same(
    hook: Hook,
) -> None:
    plain, counted = (
        chain(ruleset.install(SERVICE, hook, mac_added=False, counted=asked), "early")
        for asked in (False, True)
    )
    assert [rule.replace(" counter drop ", " drop ") for rule in counted] == plain
    assert all(" counter drop " in rule for rule in counted)


def test_every_chain_that_is_filled_is_declared_and_emptied_before() -> None:
    found = {
        verb: set(re.findall(rf"^{verb} (\w+ \S+ \w+)", INSTALLED, re.MULTILINE))
        for verb in ("add chain", "flush chain", "add rule")
    }
    assert found["add chain"] == found["flush chain"] == found["add rule"]
    assert INSTALLED.rindex("add chain") < INSTALLED.index("flush chain")
    assert INSTALLED.rindex("flush chain") < INSTALLED.index("add rule")


@pytest.mark.parametrize("mac_added", [False, True])
def test_a_note_says_whose_the_cluster_mac_is(mac_added: bool) -> None:
    assert (
        ruleset.MAC_NOTE in ruleset.install(SERVICE, Hook.INGRESS, mac_added=mac_added)
    ) == mac_added


def test_the_probe_needs_no_table() -> None:
    assert ruleset.probe(SERVICE, Hook.INGRESS).splitlines()[:2] == [
        "add table inet maglev0_198.51.100.1",
        "add table arp maglev0_198.51.100.1",
    ]
    assert ruleset.probe(SERVICE, Hook.INGRESS).endswith(
        ruleset.install(SERVICE, Hook.INGRESS, mac_added=True, counted=True)
    )


def hashing(mode: HashMode, name: str) -> list[str]:
    """The rules of a chain that hash, without what all of them say."""
    text = ruleset.install(replace(SERVICE, hash_mode=mode), Hook.INGRESS, mac_added=False)
    return [
        rule.replace(" mod 5 seed 0x7 offset 1", "")
        for rule in chain(text, name)
        if "jhash" in rule
    ]


@pytest.mark.parametrize("name", ruleset.OWNED)
def test_by_source_address_alone_whatever_the_protocol(name: str) -> None:
    assert hashing(HashMode.SOURCE_IP, name) == [
        f"meta l4proto tcp jhash ip saddr @{name} counter name new_flows {ACCEPT}",
        f"meta l4proto != tcp jhash ip saddr @{name} counter name other {ACCEPT}",
    ]
    assert hashing(HashMode.SOURCE_IP, "owned_both") == ["jhash ip saddr @owned_a goto owned_b"]


@pytest.mark.parametrize(("mode", "key"), PORTS.items())
@pytest.mark.parametrize("name", ruleset.OWNED)
def test_with_ports_tcp_and_udp_hash_by_them_and_the_rest_by_the_address(
    name: str, mode: HashMode, key: str
) -> None:
    assert hashing(mode, name) == [
        f"meta l4proto tcp jhash {key} @{name} counter name new_flows {ACCEPT}",
        f"meta l4proto udp jhash {key} @{name} counter name other {ACCEPT}",
        f"meta l4proto != {{ tcp, udp }} jhash ip saddr @{name} counter name other {ACCEPT}",
    ]
    assert hashing(mode, "owned_both") == [
        f"meta l4proto {{ tcp, udp }} jhash {key} @owned_a goto owned_b",
        "meta l4proto != { tcp, udp } jhash ip saddr @owned_a goto owned_b",
    ]


@settings(deadline=None)
@given(totals)
def test_the_modulus_is_one_that_the_kernel_takes(total_nodes: int) -> None:
    text = ruleset.install(replace(SERVICE, total_nodes=total_nodes), Hook.INGRESS, mac_added=False)
    assert set(re.findall(r"mod (\d+)", text)) == {str(max(2, total_nodes))}


def test_clearing_takes_out_all_that_is_named_users_first() -> None:
    text = ruleset.clear(SERVICE.vip, "inet", ["early", "theirs"], ["owned"], ["slot"])
    assert text == (
        "flush table inet maglev0_198.51.100.1\n"
        "flush map inet maglev0_198.51.100.1 slot\n"
        "delete map inet maglev0_198.51.100.1 slot\n"
        "delete set inet maglev0_198.51.100.1 owned\n"
        "delete chain inet maglev0_198.51.100.1 early\n"
        "delete chain inet maglev0_198.51.100.1 theirs\n"
    )


def test_every_parameter_changes_the_fingerprint() -> None:
    assert OTHERS.keys() == {field.name for field in fields(Service)}
    changed = {
        ruleset.fingerprint(replace(SERVICE, **{name: value}), Hook.INGRESS)
        for name, value in OTHERS.items()
    }
    assert len(changed | {ruleset.fingerprint(SERVICE, hook) for hook in Hook}) == len(
        OTHERS
    ) + len(Hook)


@pytest.mark.parametrize("hook", Hook)
def test_the_fingerprint_is_the_same_in_every_run_and_stands_in_the_rules(hook: Hook) -> None:
    assert ruleset.fingerprint(SERVICE, hook) == ruleset.fingerprint(replace(SERVICE), hook)
    assert f'comment "{ruleset.fingerprint(SERVICE, hook)}"' in ruleset.install(
        SERVICE, hook, mac_added=False
    )


# What sets hold.


@settings(deadline=None)
@given(totals, st.data())
def test_the_buckets_of_the_elements_are_those_that_were_owned(
    total_nodes: int, data: st.DataObject
) -> None:
    service = replace(SERVICE, total_nodes=total_nodes)
    owned = data.draw(st.frozensets(st.integers(1, total_nodes), max_size=20))
    elements = ruleset.elements(service, owned)
    assert ruleset.buckets(service, elements) == owned
    assert all(1 <= element <= max(2, total_nodes) for element in elements)
    assert total_nodes == 1 or elements == owned


def test_a_single_bucket_is_both_values_of_its_hash() -> None:
    service = replace(SERVICE, total_nodes=1)
    assert ruleset.elements(service, {1}) == {1, 2}
    assert ruleset.elements(service, ()) == frozenset()
    assert ruleset.buckets(service, {2}) == frozenset()  # half of it, as another hand may leave it
