from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maglev0.core.service import HashFamily, HashMode, Service
from maglev0.core.settings import (
    DEFAULT_TOTAL_NODES,
    MAX_LEASE_MS,
    MAX_SETTINGS_BYTES,
    MAX_TOTAL_NODES,
    SEED_LIMIT,
    Settings,
    Wishes,
    check_id,
    contradictions,
    decode,
    derived_mac,
    differences,
    first_settings,
    lease_length_ms,
    parse_cluster_mac,
    read_object,
)
from maglev0.errors import ConfigError
from tests.support.records import corrupted
from tests.support.settings import AGREED, agreed, seeds, vips, wishes

CLUSTERIP, NFTABLES = HashFamily.CLUSTERIP, HashFamily.NFTABLES
VIP = IPv4Address("198.51.100.1")
NO_WISH = Wishes(None, None, None, None, (NFTABLES, CLUSTERIP))


# The znode's data.


@given(agreed)
def test_what_was_encoded_is_decoded_to_the_same(value: Settings) -> None:
    assert decode(value.encode()) == value
    assert len(value.encode()) <= MAX_SETTINGS_BYTES


def test_golden_data() -> None:
    # If the data changed between two releases under one format number, old and new nodes would
    # misread each other.
    assert AGREED.encode() == (
        b'{"cluster_mac": "03:bf:c6:33:64:01", "delivery": "flood", "format": 3, '
        b'"hash_family": "nftables", "hash_mode": "sourceip", "hash_seed": 7, '
        b'"lease_ms": 2666, "total_nodes": 5}'
    )


def test_keys_that_this_version_does_not_know_are_passed_over() -> None:
    assert decode(json.dumps({**asdict(AGREED), "colour": "blue"}).encode()) == AGREED


def record(**changes: Any) -> bytes:
    return json.dumps({**asdict(AGREED), **changes}).encode()


def record_without(key: str) -> bytes:
    return json.dumps(
        {name: value for name, value in asdict(AGREED).items() if name != key}
    ).encode()


NOT_THIS_FORMAT = (
    "format {}, this version of maglev0 uses format 3: "
    "stop the members of the other version first, or run their version here"
)
NOT_A_TOTAL = "total_nodes is not a whole number from 1 to 1048576"
NOT_A_FORMAT = "format is not a whole number from 0 to 4294967296"
NOT_A_FAMILY = "hash_family is none of clusterip, nftables"
NOT_A_MODE = "hash_mode is none of sourceip, sourceip-sourceport, sourceip-sourceport-destport"
NOT_A_SEED = "hash_seed is not a whole number from 0 to 4294967295"
NOT_A_LEASE = "lease_ms is not a whole number from 1 to 3600000"

UNREADABLE = [
    ("nothing", b"", "not JSON"),
    ("a text", b"hello", "not JSON"),
    ("bytes", b"\xff\xfe\x00", "not JSON"),
    ("half of it", AGREED.encode()[:40], "not JSON"),
    ("a list", b"[1]", "not a JSON object"),
    ("null", b"null", "not a JSON object"),
    ("a million bytes", b" " * 1_000_000, "1000000 bytes, at most 4096 are allowed"),
    ("4097 bytes", AGREED.encode().ljust(4097), "4097 bytes, at most 4096 are allowed"),
    ("deep objects", b'{"format": ' + b'{"":' * 300, "not JSON"),
    ("no format", record_without("format"), NOT_A_FORMAT),
    ("format true", record(format=True), NOT_A_FORMAT),
    ("format 1.0", record(format=1.0), NOT_A_FORMAT),
    ("format text", record(format="\x1b[1m"), NOT_A_FORMAT),
    ("format list", record(format=[[1]]), NOT_A_FORMAT),
    ("format 1", record(format=1), NOT_THIS_FORMAT.format(1)),
    ("format 4", record(format=4), NOT_THIS_FORMAT.format(4)),
    ("no total", record_without("total_nodes"), NOT_A_TOTAL),
    ("total true", record(total_nodes=True), NOT_A_TOTAL),
    ("total 0", record(total_nodes=0), NOT_A_TOTAL),
    ("total -1", record(total_nodes=-1), NOT_A_TOTAL),
    ("total 5.0", record(total_nodes=5.0), NOT_A_TOTAL),
    ("total text", record(total_nodes="5"), NOT_A_TOTAL),
    ("total NaN", record(total_nodes=float("nan")), NOT_A_TOTAL),
    (
        "total huge",
        record().replace(b'"total_nodes": 5', b'"total_nodes": ' + b"9" * 3000),
        NOT_A_TOTAL,
    ),
    ("total 2**20 + 1", record(total_nodes=(1 << 20) + 1), NOT_A_TOTAL),
    (
        "total 17, clusterip",
        record(total_nodes=17, hash_family="clusterip"),
        "total_nodes is not a whole number from 1 to 16",
    ),
    ("family xdp", record(hash_family="xdp"), NOT_A_FAMILY),
    ("family null", record(hash_family=None), NOT_A_FAMILY),
    ("family surrogate", record(hash_family="\ud800"), NOT_A_FAMILY),
    ("family list", record(hash_family=[]), NOT_A_FAMILY),
    ("no mode", record_without("hash_mode"), NOT_A_MODE),
    ("mode destip", record(hash_mode="destip"), NOT_A_MODE),
    ("seed -1", record(hash_seed=-1), NOT_A_SEED),
    ("seed 2**32", record(hash_seed=SEED_LIMIT), NOT_A_SEED),
    ("seed false", record(hash_seed=False), NOT_A_SEED),
    (
        "MAC unicast",
        record(cluster_mac="02:00:00:00:00:01"),
        "the cluster MAC must be multicast: its first byte must be odd, as in 03:bf:c6:33:64:01",
    ),
    (
        "MAC broadcast",
        record(cluster_mac="ff:ff:ff:ff:ff:ff"),
        "the broadcast address is not a multicast group",
    ),
    (
        "MAC of switches",
        record(cluster_mac="01:80:c2:00:00:0e"),
        "switches do not forward 01:80:c2:00:00:00 to 0f (IEEE 802.1D)",
    ),
    (
        "MAC text",
        record(cluster_mac="mac"),
        "a MAC address is six bytes in hexadecimal, as 03:bf:c6:33:64:01",
    ),
    (
        "MAC long",
        record(cluster_mac="a" * 300),
        "cluster_mac is not a printable text of at most 255 characters",
    ),
    (
        "MAC number",
        record(cluster_mac=3),
        "cluster_mac is not a printable text of at most 255 characters",
    ),
    ("no delivery", record_without("delivery"), "delivery is none of flood, forward"),
    ("delivery by post", record(delivery="post"), "delivery is none of flood, forward"),
    (
        "delivery forward",
        record(delivery="forward"),
        "delivery is forward, this version of maglev0 delivers by flood only",
    ),
    ("lease 0", record(lease_ms=0), NOT_A_LEASE),
    ("lease long", record(lease_ms=MAX_LEASE_MS + 1), NOT_A_LEASE),
    ("lease Infinity", record(lease_ms=float("inf")), NOT_A_LEASE),
]


@pytest.mark.parametrize(
    ("data", "why"), [pytest.param(data, why, id=name) for name, data, why in UNREADABLE]
)
def test_data_that_cannot_be_read(data: bytes, why: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  the whole message is compared
        decode(data)
    assert str(refusal.value) == why


def decoded(data: bytes) -> Settings | ValueError:
    try:
        return decode(data)
    except ValueError as error:
        return error


@given(corrupted(asdict(AGREED)))
@settings(deadline=None, max_examples=500)
def test_whatever_lies_in_the_znode_is_read_as_valid_settings_or_refused_in_one_printable_line(
    data: bytes,
) -> None:
    outcome = decoded(data)
    if isinstance(outcome, Settings):
        assert decode(outcome.encode()) == outcome
        assert all(
            type(getattr(outcome, field.name)) is type(getattr(AGREED, field.name))
            for field in fields(Settings)
        )
    else:
        assert str(outcome).isprintable()
        assert 0 < len(str(outcome)) < 200


@pytest.mark.parametrize("depth", [*range(950, 1000), 100_000])
@pytest.mark.parametrize(
    ("opening", "closing"), [(b"[", b"]"), (b'{"":', b"}")], ids=["lists", "objects"]
)
def test_no_depth_of_nesting_makes_it_raise_anything_else(
    depth: int, opening: bytes, closing: bytes
) -> None:
    with pytest.raises(ValueError, match=r"format is not|nested too deeply|bytes, at most"):
        decode(b'{"format": ' + opening * depth + b"0" + closing * depth + b"}")


def test_nesting_deeper_than_any_limit_of_the_interpreter() -> None:
    with pytest.raises(ValueError, match=r"^JSON nested too deeply$"):
        read_object(b"[" * 1_000_000)


# The first node.


@given(wishes, vips, st.floats(0.1, 3600), seeds)
def test_the_first_settings_are_what_was_wished_for_and_can_be_read_back(
    asked: Wishes, vip: IPv4Address, timeout_s: float, seed: int
) -> None:
    total_nodes = DEFAULT_TOTAL_NODES if asked.total_nodes is None else asked.total_nodes
    able = [family for family in asked.families if total_nodes <= MAX_TOTAL_NODES[family]]
    if not able:
        with pytest.raises(
            ConfigError,
            match=rf"^--total-nodes={total_nodes}: allowed are 1 to 16 with clusterip, "
            "the only dataplane",
        ):
            first_settings(asked, vip, timeout_s, seed)
        return
    founded = first_settings(asked, vip, timeout_s, seed)
    assert decode(founded.encode()) == founded
    assert contradictions(asked, founded) == ()
    assert founded.hash_family is able[0]
    assert founded.lease_ms == lease_length_ms(able[0], timeout_s)


@pytest.mark.parametrize(
    ("timeout_s", "nftables_ms", "clusterip_ms"),
    [(0.1, 66, 1000), (1, 666, 1000), (4, 2666, 2000), (4.5, 3000, 3000)],
)
def test_a_lease_is_two_thirds_of_the_session_and_in_whole_seconds_for_clusterip(
    timeout_s: float, nftables_ms: int, clusterip_ms: int
) -> None:
    assert lease_length_ms(HashFamily.NFTABLES, timeout_s) == nftables_ms
    assert lease_length_ms(HashFamily.CLUSTERIP, timeout_s) == clusterip_ms


def test_more_buckets_than_the_only_dataplane_serves_are_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^--total-nodes=17: allowed are 1 to 16 with clusterip, the only dataplane",
    ):
        first_settings(
            replace(NO_WISH, total_nodes=17, families=(HashFamily.CLUSTERIP,)), VIP, 4, 7
        )


def test_the_first_settings_of_flags_left_out() -> None:
    assert first_settings(NO_WISH, VIP, 4, 7) == AGREED


def test_a_seed_of_zero_is_a_seed() -> None:
    assert first_settings(replace(NO_WISH, hash_seed=0), VIP, 4, 7).hash_seed == 0


@given(vips, vips)
def test_the_derived_mac_is_a_multicast_address_of_that_vip_alone(
    vip: IPv4Address, other: IPv4Address
) -> None:
    assert parse_cluster_mac(derived_mac(vip)) == derived_mac(vip)
    assert (derived_mac(vip) == derived_mac(other)) == (vip == other)


def test_golden_derived_mac() -> None:
    assert derived_mac(VIP) == "03:bf:c6:33:64:01"


# Every other node.


@given(wishes, agreed)
def test_nothing_contradicts_exactly_when_every_flag_is_left_out_or_equal(
    asked: Wishes, cluster: Settings
) -> None:
    flags = {
        "--total-nodes": "total_nodes",
        "--hash-mode": "hash_mode",
        "--hash-seed": "hash_seed",
        "--cluster-mac": "cluster_mac",
    }
    expected = {
        flag
        for flag, name in flags.items()
        if getattr(asked, name) not in (None, getattr(cluster, name))
    }
    expected |= set() if cluster.hash_family in asked.families else {"--dataplane"}
    found = contradictions(asked, cluster)
    assert {text.partition("=")[0] for text in found} == expected
    assert len(found) == len(expected)
    assert all(text.isprintable() for text in found)


@given(agreed)
def test_flags_that_say_what_the_cluster_has_contradict_nothing(cluster: Settings) -> None:
    asked = Wishes(
        cluster.total_nodes,
        cluster.hash_mode,
        cluster.hash_seed,
        cluster.cluster_mac,
        (cluster.hash_family,),
    )
    assert contradictions(asked, cluster) == ()


def test_a_contradiction_names_flag_value_and_the_clusters_but_not_a_seed() -> None:
    asked = Wishes(6, HashMode.SOURCE_IP_PORT, 0, "03:00:00:00:00:01", (CLUSTERIP,))
    assert contradictions(asked, AGREED) == (
        "--total-nodes=6 (the cluster has 5)",
        "--hash-mode=sourceip-sourceport (the cluster has sourceip)",
        "--hash-seed=… (the cluster has another one)",
        "--cluster-mac=03:00:00:00:00:01 (the cluster has 03:bf:c6:33:64:01)",
        "--dataplane=clusterip (the cluster has nftables, which hashes packets differently)",
    )


@given(agreed, agreed)
def test_differences_are_the_fields_that_differ(running: Settings, found: Settings) -> None:
    differing = [
        field.name
        for field in fields(Settings)
        if getattr(running, field.name) != getattr(found, field.name)
    ]
    assert [text.partition(" ")[0] for text in differences(running, found)] == differing


def test_a_difference_tells_both_values_but_of_the_seed() -> None:
    assert differences(AGREED, replace(AGREED, hash_seed=8, hash_mode=HashMode.SOURCE_IP_PORT)) == (
        "hash_mode was sourceip, is sourceip-sourceport",
        "hash_seed is another one",
    )


@given(agreed, vips)
def test_the_service_is_that_of_the_settings(cluster: Settings, vip: IPv4Address) -> None:
    assert cluster.service(vip, "eth0") == Service(
        vip, "eth0", cluster.cluster_mac, cluster.total_nodes, cluster.hash_mode, cluster.hash_seed
    )


def test_an_id_beyond_the_clusters_buckets_has_no_place() -> None:
    check_id(5, AGREED)
    with pytest.raises(
        ConfigError,
        match=r"--my-id=6: allowed are the whole numbers from 1 to 5, the cluster's total-nodes",
    ):
        check_id(6, AGREED)
