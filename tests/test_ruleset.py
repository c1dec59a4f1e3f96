from __future__ import annotations

import re
from dataclasses import fields, replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.dataplane import Change, ruleset
from maglev0.service import HashMode, Service

SERVICE = Service(IPv4Address("198.51.100.1"), "eth0", "03:bf:c6:33:64:01", 5, HashMode.SOURCE_IP, 7)
OTHERS: dict[str, Any] = {
    "vip": IPv4Address("198.51.100.2"),
    "interface": "eth1",
    "cluster_mac": "03:bf:c6:33:64:02",
    "total_nodes": 6,
    "hash_mode": HashMode.SOURCE_IP_PORT,
    "hash_seed": 8,
}

totals = st.one_of(st.integers(1, 16), st.integers(1, 1 << 20))
numbers = st.frozensets(st.integers(1, 1 << 20), max_size=50)


def chain(text: str, name: str) -> list[str]:
    """The rules that a text puts into a chain."""
    (body,) = re.findall(rf"chain {name} {{\n(?!  }})(.*?)\n  }}", text, re.DOTALL)
    return [line.strip() for line in body.splitlines()]


# The rules.


@pytest.mark.parametrize("mac_added", [False, True])
def test_the_rules_judge_what_arrives_for_the_vip_on_the_interface_and_nothing_else(mac_added: bool) -> None:
    text = ruleset.install(SERVICE, mac_added=mac_added)
    assert chain(text, "early") == ['iifname "eth0" ip daddr 198.51.100.1 goto early_judge']
    assert chain(text, "second") == ['iifname "eth0" ip daddr 198.51.100.1 goto second_judge']
    assert chain(text, "input") == ['iifname != "eth0" arp daddr ip 198.51.100.1 drop']
    assert chain(text, "output") == [
        'oifname != "eth0" arp saddr ip 198.51.100.1 drop',
        'oifname "eth0" arp saddr ip 198.51.100.1 arp saddr ether set 03:bf:c6:33:64:01',
    ]
    assert set(re.findall(r"table (\w+ \S+)", text)) == {"ip maglev0_198.51.100.1", "arp maglev0_198.51.100.1"}
    assert (ruleset.MAC_NOTE in text) == mac_added


def test_what_no_rule_accepts_is_dropped() -> None:
    text = ruleset.install(SERVICE, mac_added=True)
    assert chain(text, "early_judge")[-1] == chain(text, "second_judge")[-1] == "drop"


def test_a_second_text_empties_every_chain_that_it_fills() -> None:
    text = ruleset.install(SERVICE, mac_added=True)
    flushed = re.findall(r"^flush chain (ip|arp) maglev0_198\.51\.100\.1 (\w+)$", text, re.MULTILINE)
    assert set(flushed) == {("ip", "early"), ("ip", "early_judge"), ("ip", "second"), ("ip", "second_judge"), ("arp", "input"), ("arp", "output")}
    assert set(re.findall(r"chain (\w+) {", text)) == {name for _family, name in flushed}
    assert text.index(f'iifname "{SERVICE.interface}"') > text.rindex("flush chain")


BUCKET = "mod 5 seed 0x7 offset 1 @owned"
PORTS = {HashMode.SOURCE_IP_PORT: "ip saddr . th sport", HashMode.SOURCE_IP_PORT_DEST_PORT: "ip saddr . th sport . th dport"}


@pytest.mark.parametrize(("name", "verdict"), [("early_judge", "accept"), ("second_judge", "meta pkttype set host accept")])
def test_by_source_address_alone_there_is_one_rule(name: str, verdict: str) -> None:
    rules = [rule for rule in chain(ruleset.install(SERVICE, mac_added=False), name) if "jhash" in rule]
    assert rules == [f"jhash ip saddr {BUCKET} {verdict}"]


@pytest.mark.parametrize(("mode", "key"), PORTS.items())
@pytest.mark.parametrize(("name", "verdict"), [("early_judge", "accept"), ("second_judge", "meta pkttype set host accept")])
def test_with_ports_tcp_and_udp_hash_by_them_and_the_rest_by_the_address(mode: HashMode, key: str, name: str, verdict: str) -> None:
    rules = [rule for rule in chain(ruleset.install(replace(SERVICE, hash_mode=mode), mac_added=False), name) if "jhash" in rule]
    assert rules == [
        f"meta l4proto {{ tcp, udp }} jhash {key} {BUCKET} {verdict}",
        f"meta l4proto != {{ tcp, udp }} jhash ip saddr {BUCKET} {verdict}",
    ]


@given(totals)
def test_the_modulus_is_one_that_the_kernel_takes(total_nodes: int) -> None:
    text = ruleset.install(replace(SERVICE, total_nodes=total_nodes), mac_added=False)
    assert set(re.findall(r"mod (\d+)", text)) == {str(max(2, total_nodes))}


def test_removal_needs_nothing_to_be_there() -> None:
    assert ruleset.remove(SERVICE.vip).splitlines() == [
        "add table ip maglev0_198.51.100.1",
        "delete table ip maglev0_198.51.100.1",
        "add table arp maglev0_198.51.100.1",
        "delete table arp maglev0_198.51.100.1",
    ]


def test_every_parameter_changes_the_fingerprint() -> None:
    assert OTHERS.keys() == {field.name for field in fields(Service)}
    changed = {ruleset.fingerprint(replace(SERVICE, **{name: value})) for name, value in OTHERS.items()}
    assert len(changed | {ruleset.fingerprint(SERVICE)}) == len(OTHERS) + 1


def test_the_fingerprint_is_the_same_in_every_run_and_stands_in_the_rules() -> None:
    assert ruleset.fingerprint(SERVICE) == ruleset.fingerprint(replace(SERVICE))
    assert f'comment "{ruleset.fingerprint(SERVICE)}"' in ruleset.install(SERVICE, mac_added=False)


# The owned set.


@given(numbers, numbers)
def test_commands_name_what_goes_and_what_comes_and_nothing_else(added: frozenset[int], removed: frozenset[int]) -> None:
    text = ruleset.commands(SERVICE, Change(added, removed))
    found = re.findall(r"^(add|delete) element ip maglev0_198\.51\.100\.1 owned \{ ([\d,]+) \}$", text, re.MULTILINE)
    expected = [(verb, members) for verb, members in (("delete", removed), ("add", added)) if members]
    assert [(verb, frozenset(int(number) for number in members.split(","))) for verb, members in found] == expected
    assert len(found) == len(text.splitlines())


SOME_OF_MANY = st.integers(0, 5 * ruleset.MAX_TRANSACTION // 2).map(lambda count: frozenset(range(1, count + 1)))


@given(SOME_OF_MANY, SOME_OF_MANY)
def test_pieces_make_up_the_change_and_none_is_too_large(added: frozenset[int], removed: frozenset[int]) -> None:
    change = Change(added, frozenset(-number for number in removed))
    pieces = list(ruleset.in_pieces(change))
    assert sum(len(piece.added) for piece in pieces) == len(added)
    assert sum(len(piece.removed) for piece in pieces) == len(removed)
    assert frozenset().union(*(piece.added for piece in pieces)) == change.added
    assert frozenset().union(*(piece.removed for piece in pieces)) == change.removed
    assert all(len(piece.added) + len(piece.removed) <= ruleset.MAX_TRANSACTION for piece in pieces)
    additions_begin = next((number for number, piece in enumerate(pieces) if piece.added), len(pieces))
    assert not any(piece.removed for piece in pieces[additions_begin + 1 :])


def test_what_fits_one_transaction_is_one() -> None:
    half = ruleset.MAX_TRANSACTION // 2
    change = Change(frozenset(range(1, half + 1)), frozenset(range(half + 1, 2 * half + 1)))
    assert list(ruleset.in_pieces(change)) == [change]


@given(totals, st.data())
def test_the_buckets_of_the_elements_are_those_that_were_owned(total_nodes: int, data: st.DataObject) -> None:
    service = replace(SERVICE, total_nodes=total_nodes)
    owned = data.draw(st.frozensets(st.integers(1, total_nodes), max_size=20))
    elements = ruleset.elements(service, owned)
    assert ruleset.buckets(service, elements) == owned
    assert elements <= frozenset(range(1, max(2, total_nodes) + 1))
    assert total_nodes == 1 or elements == owned


def test_a_single_bucket_is_both_values_of_its_hash() -> None:
    service = replace(SERVICE, total_nodes=1)
    assert ruleset.elements(service, {1}) == {1, 2}
    assert ruleset.elements(service, ()) == frozenset()
    assert ruleset.buckets(service, {2}) == frozenset()  # half of it, as another hand may leave it
