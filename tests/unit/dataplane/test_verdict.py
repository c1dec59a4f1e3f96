from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashFamily, HashMode, Service
from maglev0.dataplane import verdict
from maglev0.dataplane.nftables.ruleset import OWNED_BOTH, Hook
from maglev0.dataplane.verdict import (
    ClusterIPKernel,
    InterfaceFacts,
    NftablesKernel,
    ServingKernel,
    Tracked,
    XdpFacts,
)

SERVICE = Service(
    IPv4Address("198.51.100.1"), "eth0", "03:bf:c6:33:64:01", 8, HashMode.SOURCE_IP, 0xC0FFEE
)
TABLE = "inet maglev0_198.51.100.1"
MINE, LOST, GAINED, KEPT, FOREIGN = 1, 2, 3, 4, 5
NFTABLES = NftablesKernel(
    service=SERVICE,
    hook=Hook.INGRESS,
    host=InterfaceFacts(link_up=True, address=True),
    program=None,
    admitted=frozenset({MINE, LOST, GAINED, KEPT}),
    owned={"owned_a": frozenset({MINE, LOST}), "owned_b": frozenset({MINE, GAINED})},
    owned_slot="owned_a",
    lease_left_s={"lease_b": 1.5},
    lease_slot="lease_b",
)
CLUSTERIP = ClusterIPKernel(
    replace(SERVICE),
    InterfaceFacts(link_up=True, address=True),
    frozenset({MINE}),
    guarded=True,
    lease_left_s=1.5,
)
PORTS = {
    HashFamily.NFTABLES: {6, 17},
    HashFamily.CLUSTERIP: {6, 17, 33, 50, 51, 132, 136},
}


def accepting(kernel: ServingKernel) -> set[int]:
    return {bucket for bucket in range(1, 9) if kernel.new_flow(bucket).accepts}


def rule(kernel: ServingKernel, bucket: int) -> str:
    return kernel.new_flow(bucket).decisive.rule


@pytest.mark.parametrize(
    ("slot", "in_force"),
    [("owned_a", {MINE, LOST}), (OWNED_BOTH, {MINE}), ("owned_b", {MINE, GAINED}), (None, set())],
    ids=str,
)
def test_new_flows_are_accepted_in_what_is_in_force(slot: str | None, in_force: set[int]) -> None:
    assert accepting(replace(NFTABLES, owned_slot=slot)) == in_force


@pytest.mark.parametrize(
    ("slot", "bucket", "by"),
    [
        ("owned_a", MINE, "owned_a: accept"),
        ("owned_a", GAINED, "owned_a: drop"),
        (OWNED_BOTH, MINE, "owned_b: accept"),
        (OWNED_BOTH, GAINED, "owned_both: drop"),
        (OWNED_BOTH, LOST, "owned_b: drop"),
        ("owned_b", LOST, "owned_b: drop"),
        (None, MINE, "leased: drop"),
        ("owned_a", FOREIGN, "early: ingress, drop"),
    ],
    ids=str,
)
def test_the_rule_that_decides_is_named(slot: str | None, bucket: int, by: str) -> None:
    assert rule(replace(NFTABLES, owned_slot=slot), bucket) == f"{TABLE} {by}"


@pytest.mark.parametrize(
    ("slot", "left", "by"),
    [(None, {"lease_a": 1.0}, "new_flow: drop"), ("lease_a", {"lease_b": 1.0}, "lease_a: drop")],
    ids=str,
)
def test_without_a_lease_that_runs_and_is_in_force_nothing_new_is_accepted(
    slot: str | None, left: dict[str, float], by: str
) -> None:
    kernel = replace(NFTABLES, lease_slot=slot, lease_left_s=left)
    assert accepting(kernel) == set()
    assert rule(kernel, MINE) == f"{TABLE} {by}"
    assert kernel.established(MINE, Tracked("ESTABLISHED", established=True)).accepts


def test_a_lease_that_is_about_to_end_still_runs() -> None:
    assert replace(NFTABLES, lease_left_s={"lease_b": 0.0}).new_flow(MINE).accepts


@pytest.mark.parametrize(
    ("tracked", "accepts"),
    [
        (None, False),
        (Tracked("SYN_SENT", established=False), False),
        (Tracked("ESTABLISHED", established=True), True),
    ],
    ids=str,
)
@pytest.mark.parametrize("bucket", [MINE, KEPT])
def test_connections_go_by_connection_tracking_in_every_admitted_bucket(
    tracked: Tracked | None, accepts: bool, bucket: int
) -> None:
    judged = NFTABLES.established(bucket, tracked)
    assert judged.accepts is accepts
    assert judged.decisive.rule.startswith(f"{TABLE} judge_tcp: ")


def test_connections_in_a_bucket_that_is_not_admitted_are_dropped_early() -> None:
    judged = NFTABLES.established(FOREIGN, Tracked("ESTABLISHED", established=True))
    assert (judged.accepts, judged.decisive.stage) == (False, "early")


def test_xdp_drops_what_has_no_bit() -> None:
    kernel = replace(NFTABLES, program=XdpFacts("native", frozenset({MINE})))
    assert accepting(kernel) == {MINE}
    assert kernel.new_flow(LOST).decisive.rule == "XDP program on eth0, native"
    assert not kernel.established(LOST, Tracked("ESTABLISHED", established=True)).accepts


def test_a_program_of_others_leaves_unknown_what_the_rules_would_accept() -> None:
    kernel = replace(NFTABLES, program=XdpFacts("generic", None))
    assert kernel.new_flow(MINE).accepts is None
    assert kernel.new_flow(MINE).decisive.stage == "xdp"
    assert kernel.new_flow(FOREIGN).accepts is False
    assert kernel.new_flow(FOREIGN).decisive.stage == "early"


@pytest.mark.parametrize("kernel", [NFTABLES, CLUSTERIP], ids=lambda kernel: kernel.family)
@pytest.mark.parametrize(
    ("host", "by"),
    [
        (InterfaceFacts(False, True), "link eth0"),
        (InterfaceFacts(True, False), "address 198.51.100.1"),
    ],
    ids=str,
)
def test_without_the_link_or_the_address_nothing_is_accepted(
    kernel: NftablesKernel | ClusterIPKernel, host: InterfaceFacts, by: str
) -> None:
    broken = replace(kernel, host=host)
    assert accepting(broken) == set()
    assert rule(broken, MINE) == by
    assert broken.established(MINE, Tracked("ESTABLISHED", established=True)).accepts is False


@pytest.mark.parametrize(
    ("left_s", "accepts"), [(1.5, True), (0.0, True), (-0.01, False), (-math.inf, False)]
)
def test_clusterip_accepts_nothing_without_a_lease(left_s: float, accepts: bool) -> None:
    kernel = replace(CLUSTERIP, lease_left_s=left_s)
    assert (accepting(kernel) == {MINE}) is accepts
    assert kernel.new_flow(MINE).accepts is kernel.established(MINE, None).accepts is accepts
    assert rule(kernel, MINE) == (
        "filter INPUT: CLUSTERIP" if accepts else "filter maglev0-198.51.100.1: DROP"
    )


def test_a_rule_by_hand_needs_no_lease() -> None:
    kernel = replace(CLUSTERIP, guarded=False, lease_left_s=-math.inf)
    assert accepting(kernel) == {MINE}
    assert rule(kernel, KEPT) == "filter INPUT: CLUSTERIP"


@pytest.mark.parametrize(
    "kernel",
    [NFTABLES, CLUSTERIP, replace(NFTABLES, program=XdpFacts("native", frozenset()))],
    ids=lambda kernel: kernel.family,
)
def test_no_step_tells_the_seed(kernel: ServingKernel) -> None:
    said = repr(
        [
            judged
            for bucket in range(1, 9)
            for judged in (kernel.new_flow(bucket), kernel.established(bucket, None))
        ]
    )
    assert str(SERVICE.hash_seed) not in said
    assert f"{SERVICE.hash_seed:x}" not in said


@pytest.mark.parametrize("family", HashFamily)
@pytest.mark.parametrize("mode", HashMode)
def test_which_ports_count_is_told_for_every_protocol(family: HashFamily, mode: HashMode) -> None:
    hashing = PacketHash(family, mode, 7, 5)
    for protocol in range(256):
        ported = protocol in PORTS[family]
        counts = verdict.hashed_ports(hashing, protocol)
        assert counts == (
            ported and mode is not HashMode.SOURCE_IP,
            ported and mode is HashMode.SOURCE_IP_PORT_DEST_PORT,
        )


def test_the_ports_that_are_missing_are_named() -> None:
    hashing = PacketHash(HashFamily.NFTABLES, HashMode.SOURCE_IP_PORT_DEST_PORT, 7, 5)
    assert verdict.missing_ports(hashing, 6, None, None) == (
        "the source port, as SRC:PORT",
        "the destination port, as DST-PORT",
    )
    assert verdict.missing_ports(hashing, 6, 0, None) == ("the destination port, as DST-PORT",)
    assert (
        verdict.missing_ports(hashing, 6, 1, 1)
        == verdict.missing_ports(hashing, 1, None, None)
        == ()
    )
    assert hashing.bucket(PacketFields(IPv4Address("192.0.2.1"), 1, 5, 6)) == hashing.bucket(
        PacketFields(IPv4Address("192.0.2.1"), 1)
    )
