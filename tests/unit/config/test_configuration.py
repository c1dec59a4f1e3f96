from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.config import command_line
from maglev0.config.configuration import (
    Config,
    FlagsError,
    ZooKeeperAddress,
    ZooKeeperLoss,
    parse_zk,
)
from maglev0.config.flag_values import MAX_VIPS
from maglev0.config.health_checks import MAX_CHECKS, CheckTiming, parse_check
from maglev0.config.zookeeper_access import ZooKeeperAccess
from maglev0.core.service import HashFamily, HashMode, Service, Xdp
from maglev0.core.settings import MAX_TOTAL_NODES, SEED_LIMIT, Wishes
from maglev0.core.view import MAX_WEIGHT
from tests.support.flags import faults, parsed, refusal

# What is given is what comes out.

numbers = st.integers(1, MAX_TOTAL_NODES[HashFamily.NFTABLES])
vips = (
    st.integers(0, SEED_LIMIT - 1)
    .map(IPv4Address)
    .filter(lambda ip: not (ip.is_multicast or ip.is_loopback or ip.is_link_local or int(ip) == 0))
)
macs = (
    st.binary(min_size=6, max_size=6)
    .map(lambda raw: bytes([raw[0] | 1]) + raw[1:])
    .filter(lambda raw: raw != b"\xff" * 6)
)
labels = st.from_regex(r"[a-z_]([A-Za-z0-9_-]{0,20}[a-z0-9])?", fullmatch=True)
hosts = st.one_of(
    st.lists(labels, min_size=1, max_size=4).map(".".join),
    st.integers(0, SEED_LIMIT - 1).map(lambda number: str(IPv4Address(number))),
    st.integers(0, (1 << 128) - 1).map(lambda number: f"[{IPv6Address(number)}]"),
)
chroot_parts = st.text(
    st.characters(
        codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters="/", max_codepoint=0xFFEF
    ),
    min_size=1,
)
chroots = st.lists(
    chroot_parts.filter(lambda part: part not in {".", ".."} and part.isprintable()), max_size=3
).map(lambda parts: "".join(f"/{part}" for part in parts if part != "zookeeper"))


@given(st.data(), numbers)
def test_numbers_come_out_as_given(data: st.DataObject, total_nodes: int) -> None:
    my_id = data.draw(st.integers(1, total_nodes))
    config = parsed(my_id=str(my_id), total_nodes=str(total_nodes))
    assert (config.my_id, config.total_nodes) == (my_id, total_nodes)


@given(vips)
def test_every_unicast_address_may_be_the_vip(vip: IPv4Address) -> None:
    if int(vip) != SEED_LIMIT - 1:
        assert parsed(cluster_ip=str(vip)).vips == (vip,)


@given(
    st.lists(
        vips.filter(lambda vip: int(vip) != SEED_LIMIT - 1),
        min_size=1,
        max_size=MAX_VIPS,
        unique=True,
    ),
    st.sampled_from([",", " , "]),
)
def test_several_vips_come_out_in_their_order(several: list[IPv4Address], comma: str) -> None:
    assert parsed(cluster_ip=comma.join(map(str, several))).vips == tuple(several)


@given(macs, st.sampled_from([":", "-"]), st.booleans())
def test_every_multicast_mac_comes_out_in_its_canonical_form(
    raw: bytes, separator: str, upper: bool
) -> None:
    text = raw.hex(separator)
    assert parsed(cluster_mac=text.upper() if upper else text).cluster_mac == raw.hex(":")


@given(st.integers(0, SEED_LIMIT - 1), st.sampled_from(["{}", "{:#x}", "0X{:08X}"]))
def test_every_seed_comes_out_whether_decimal_or_hexadecimal(seed: int, form: str) -> None:
    assert parsed(hash_seed=form.format(seed)).hash_seed == seed


@given(st.integers(100_000, 3_600_000_000))
def test_every_session_timeout_comes_out_to_the_microsecond(timeout_us: int) -> None:
    config = parsed(session_timeout=f"{timeout_us // 1_000_000}.{timeout_us % 1_000_000:06}")
    assert round(config.session_timeout_s * 1_000_000) == timeout_us


@given(
    st.lists(st.tuples(hosts, st.none() | st.integers(1, 65535)), min_size=1, max_size=5),
    chroots,
    st.sampled_from([",", " , "]),
)
def test_every_connection_string_comes_out_with_its_ports(
    servers: list[tuple[str, int | None]], chroot: str, comma: str
) -> None:
    text = comma.join(host if port is None else f"{host}:{port}" for host, port in servers) + chroot
    address = parse_zk(text)
    assert address == ZooKeeperAddress(
        ",".join(f"{host}:{port or 2181}" for host, port in servers), chroot
    )
    assert parse_zk(str(address)) == address


@pytest.mark.parametrize("mode", HashMode)
def test_every_hash_mode_has_its_name(mode: HashMode) -> None:
    assert parsed(hash_mode=mode.value).hash_mode is mode


@pytest.mark.parametrize(
    ("name", "family"),
    [("auto", None), ("clusterip", HashFamily.CLUSTERIP), ("nftables", HashFamily.NFTABLES)],
)
def test_every_dataplane_has_its_name(name: str, family: HashFamily | None) -> None:
    assert parsed(dataplane=name).dataplane is family


@pytest.mark.parametrize("what", ZooKeeperLoss)
def test_every_way_to_meet_the_loss_of_zookeeper_has_its_name(what: ZooKeeperLoss) -> None:
    assert parsed(zk_loss=what.value).zk_loss is what


@pytest.mark.parametrize("mode", Xdp)
def test_xdp(mode: Xdp) -> None:
    assert parsed(xdp=mode.value).xdp is mode


@given(st.integers(0, MAX_WEIGHT), st.integers(0, 86_400))
def test_weights_and_drain_timeouts_come_out_as_given_zero_too(weight: int, timeout_s: int) -> None:
    config = parsed(weight=str(weight), drain_timeout=str(timeout_s))
    assert (config.weight, config.drain_timeout_s) == (weight, timeout_s)


@pytest.mark.parametrize("name", ["eth0", "br-lan.100", "wg_0", "enp3s0f0np0", "a" * 15, "ü" * 7])
def test_names_of_interfaces(name: str) -> None:
    assert parsed(interface=name).interface == name


def test_switches() -> None:
    assert (parsed().dry_run, parsed().verbose) == (False, False)
    config = parsed(dry_run=True, verbose=True)
    assert (config.dry_run, config.verbose) == (True, True)


def test_flags_left_out() -> None:
    assert parsed() == Config(
        my_id=1,
        vips=(IPv4Address("198.51.100.1"),),
        zk=ZooKeeperAddress("localhost:2181", ""),
        access=ZooKeeperAccess(),
        interface=None,
        dataplane=None,
        total_nodes=None,
        hash_mode=None,
        hash_seed=None,
        cluster_mac=None,
        session_timeout_s=4.0,
        weight=1,
        drain_timeout_s=30.0,
        xdp=Xdp.AUTO,
        zk_loss=ZooKeeperLoss.RELEASE,
        checks=(),
        check_timing=CheckTiming(2.0, 1.0, 2, 3),
        notify=None,
        metrics=None,
        dry_run=False,
        verbose=False,
    )


def test_the_defaults_come_from_the_help_text() -> None:
    assert command_line.read([]) == parsed()


def test_a_default_that_is_given_is_a_wish_and_one_left_out_is_not() -> None:
    given_config = parsed(
        total_nodes="5", hash_mode="sourceip", hash_seed="0x1", cluster_mac="03:bf:00:00:00:01"
    )
    families = (HashFamily.NFTABLES,)
    assert given_config.wishes(families) == Wishes(
        5, HashMode.SOURCE_IP, 1, "03:bf:00:00:00:01", families
    )
    assert parsed().wishes(families) == Wishes(None, None, None, None, families)


def test_a_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        parsed().my_id = 2  # type: ignore[misc]


# What is refused beside another flag, and all at once.


@pytest.mark.parametrize(
    ("flag", "value", "others", "why"),
    [
        (
            "--total-nodes",
            "17",
            {"dataplane": "clusterip"},
            "must be a whole number from 1 to 16 for clusterip",
        ),
        (
            "--total-nodes",
            "1048577",
            {"dataplane": "nftables"},
            "must be a whole number from 1 to 1048576 for nftables",
        ),
        (
            "--my-id",
            "6",
            {"total_nodes": "5"},
            "must be a whole number from 1 to 5 (--total-nodes)",
        ),
        ("--my-id", "17", {"dataplane": "clusterip"}, "must be a whole number from 1 to 16"),
    ],
)
def test_what_is_refused_beside_another_flag(
    flag: str, value: str, others: dict[str, str], why: str
) -> None:
    assert refusal(flag, value, **others) == why


@pytest.mark.parametrize("kind", ["digest", "sasl"])
def test_how_zookeeper_is_reached(kind: str) -> None:
    config = parsed(
        zk_auth=f"{kind}:maglev0:/etc/maglev0/password", zk_ca="/ca", zk_cert="/cert", zk_key="/key"
    )
    assert config.access == ZooKeeperAccess(
        kind, "maglev0", "/etc/maglev0/password", "/ca", "/cert", "/key"
    )


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"zk_key": "/key", "zk_ca": "/ca"}, "--zk-key=/key: --zk-key needs --zk-cert: "),
        ({"zk_cert": "/cert", "zk_ca": "/ca"}, "--zk-cert=/cert: --zk-cert needs --zk-key: "),
        ({"zk_cert": "/cert", "zk_key": "/key"}, "--zk-cert=/cert: --zk-cert needs --zk-ca: "),
    ],
)
def test_flags_that_need_another(flags: dict[str, str], text: str) -> None:
    with pytest.raises(FlagsError, match=f"^{re.escape(text)}"):
        parsed(**flags)


@pytest.mark.parametrize(
    ("text", "metrics"),
    [
        ("127.0.0.1:9105", ("127.0.0.1", 9105)),
        ("[::]:1", ("::", 1)),
        ("[0:0::1]:65535", ("::1", 65535)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),  # noqa: S104
    ],
)
def test_where_metrics_are_served(text: str, metrics: tuple[str, int]) -> None:
    assert parsed(metrics=text).metrics == metrics


def test_checks_and_their_timing() -> None:
    config = parsed(
        check=["tcp:80", "file:/run/up"],
        check_timing="0.5,0.2,1,4",
        notify="/usr/local/bin/notify-us",
    )
    assert config.checks == (parse_check("tcp:80"), parse_check("file:/run/up"))
    assert config.check_timing == CheckTiming(0.5, 0.2, 1, 4)
    assert config.notify == "/usr/local/bin/notify-us"


def test_all_that_is_wrong_is_told_at_once() -> None:
    told = faults(
        my_id="0",
        cluster_ip="x",
        check=["tcp:x", "tcp:80", "tcp:80"],
        zk_ca="",
        zk_key="/key",
        weight="-1",
    )
    assert [text.partition("=")[0] for text in told] == [
        "--my-id",
        "--cluster-ip",
        "--zk-ca",
        "--weight",
        "--check",
        "--check",
    ]
    assert "--check=tcp:80: given twice; each health check must be different" in told


def test_checks_are_not_endless() -> None:
    checks = [f"tcp:{number}" for number in range(1, MAX_CHECKS + 2)]
    assert len(parsed(check=checks[:-1]).checks) == MAX_CHECKS
    assert faults(check=checks) == [
        f"--check={checks[-1]}: one too many; there may be at most {MAX_CHECKS} health checks"
    ]


def test_a_config_shows_no_seed() -> None:
    assert "4711" not in repr(parsed(hash_seed="4711"))


@pytest.mark.parametrize("text", ["zk1/", "zk1//", " zk1 "])
def test_what_does_no_harm_in_a_connection_string(text: str) -> None:
    assert parse_zk(text) == ZooKeeperAddress("zk1:2181", "")


def test_a_rule_set_up_by_hand_speaks_for_the_flags_left_out() -> None:
    standing = Service(
        IPv4Address("198.51.100.1"), "eth0", "01:00:5e:00:00:14", 5, HashMode.SOURCE_IP_PORT, 0
    )
    families = (HashFamily.CLUSTERIP,)
    assert parsed().wishes(families, standing) == Wishes(
        5, HashMode.SOURCE_IP_PORT, 0, "01:00:5e:00:00:14", families
    )
    flags = parsed(
        total_nodes="7", hash_seed="9", hash_mode="sourceip", cluster_mac="03:00:00:00:00:01"
    )
    assert flags.wishes(families, standing) == Wishes(
        7, HashMode.SOURCE_IP, 9, "03:00:00:00:00:01", families
    )
