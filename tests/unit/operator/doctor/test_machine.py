"""The doctor judges a machine: kernel, connection tracking, clocks, and place in the network."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from maglev0.dataplane.host.interface import Interface
from maglev0.operator.doctor import finding
from maglev0.operator.doctor.finding import Finding, Severity
from maglev0.operator.doctor.machine import judge as kernel
from maglev0.operator.doctor.machine.judge import Conntrack, Counts, MachineReading
from maglev0.operator.doctor.network import judge as network
from maglev0.operator.doctor.network.judge import NetworkReading, Route, Wanted

FAULT, WARNING, NOTE, LEFT_OUT, SOUND = (
    Severity.FAULT,
    Severity.WARNING,
    Severity.NOTE,
    Severity.LEFT_OUT,
    Severity.SOUND,
)
VIP = IPv4Address("198.51.100.1")
MAC = "03:bf:c6:33:64:01"

KERNEL = MachineReading("6.18.1", "", False, "", Conntrack(10, 1000, 432_000), 0.0, True)
LOCAL = Route("198.18.0.0/16", True, True, "eth0", "198.18.0.1")
AWAY = Route(network.DEFAULT, False, True, "eth0", "198.18.0.1")
HOST = NetworkReading(
    interface=Interface("eth0", "02:4d:47:00:00:01", "198.18.0.1"),
    up=True,
    master="",
    stacked="",
    hears_all=False,
    has_mac=True,
    holders=("eth0",),
    rules=True,
    groups=frozenset(),
    settings={},
    routes=(AWAY, LOCAL),
)
WANTED = Wanted(VIP, MAC, True)


def found(findings: list[Finding]) -> set[tuple[Severity, str]]:
    return {(one.severity, one.check) for one in findings if one.severity is not SOUND}


def test_a_sound_kernel() -> None:
    assert found(kernel.judge(KERNEL)) == set()


@pytest.mark.parametrize(
    ("changed", "severity", "check"),
    [
        ({"unable": "nftables needs CAP_NET_ADMIN"}, FAULT, kernel.DATAPLANE),
        ({"unable": "nft_hash is missing"}, FAULT, kernel.DATAPLANE),
        ({"release": "6.8.12-amd64"}, NOTE, kernel.GUARD),
        ({"without_xdp": "no BPF file system"}, NOTE, kernel.XDP),
        ({"conntrack": None}, LEFT_OUT, kernel.CONNTRACK),
        ({"conntrack": Conntrack(800, 1000, 432_000)}, WARNING, kernel.CONNTRACK),
        ({"conntrack": Conntrack(1000, 1000, 432_000)}, FAULT, kernel.CONNTRACK),
        ({"conntrack": Conntrack(0, 1000, 3600)}, WARNING, kernel.CONNTRACK_TIME),
        ({"suspended_s": 12.0}, WARNING, kernel.CLOCK),
        ({"synchronised": False}, NOTE, kernel.CLOCK),
    ],
)
def test_what_a_kernel_lacks(changed: dict[str, Any], severity: Severity, check: str) -> None:
    assert found(kernel.judge(replace(KERNEL, **changed))) == {(severity, check)}


def test_kernels_that_are_old_enough_for_clusterip_need_no_guarded_tables() -> None:
    assert found(kernel.judge(replace(KERNEL, release="5.10.0-28", clusterip=True))) == set()
    assert kernel.version("6.18.44-fc-v595") == (6, 18)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (Counts(), Counts(), set()),
        (Counts(5, 5, 5), Counts(5, 5, 5), {(NOTE, kernel.COUNTERS)}),
        (Counts(0, 0, 5), Counts(0, 0, 6), {(WARNING, kernel.COUNTERS)}),
        (Counts(), Counts(conntrack_dropped=1), {(FAULT, kernel.COUNTERS)}),
        (Counts(), Counts(conntrack_early=1), {(WARNING, kernel.COUNTERS)}),
        (Counts(ahead_s=(0.0, 1e9)), Counts(ahead_s=(0.0, 1e9 - 3)), {(FAULT, kernel.STEPS)}),
        (Counts(ahead_s=(0.0, 1e9)), Counts(ahead_s=(7.0, 1e9 + 7)), {(FAULT, kernel.STEPS)}),
    ],
)
def test_what_moves_while_it_is_looked_at(
    before: Counts, after: Counts, expected: set[tuple[Severity, str]]
) -> None:
    assert found(kernel.moved(before, after, "eth0")) == expected


def test_a_sound_node_and_a_machine_that_is_to_become_one() -> None:
    assert found(network.judge(HOST, WANTED)) == set()
    bare = replace(HOST, holders=(), has_mac=False, rules=False)
    for serving in (False, None):
        assert found(network.judge(bare, replace(WANTED, serving=serving))) == set()


@pytest.mark.parametrize(
    ("changed", "severity", "check"),
    [
        ({"up": False}, FAULT, network.INTERFACE),
        (
            {"interface": Interface("tun0", "", "198.18.0.1"), "holders": ("tun0",), "routes": ()},
            FAULT,
            network.INTERFACE,
        ),
        ({"master": "br0"}, FAULT, network.INTERFACE),
        ({"stacked": "eth0.7"}, NOTE, network.INTERFACE),
        ({"holders": ("eth0", "eth1")}, FAULT, network.VIP_PLACE),
        ({"holders": ()}, FAULT, network.VIP_PLACE),
        ({"has_mac": False}, FAULT, network.MAC_FILTER),
        ({"rules": False}, FAULT, network.RULES),
        ({"rules": None}, LEFT_OUT, network.RULES),
        ({"routes": (LOCAL,)}, NOTE, network.ANSWERS),
        ({"routes": (replace(AWAY, leaves_by="eth1"), LOCAL)}, NOTE, network.ANSWERS),
        (
            {"routes": (replace(AWAY, accepted=False, leaves_by="eth1"), LOCAL)},
            FAULT,
            network.REVERSE_PATH,
        ),
        (
            {"routes": (AWAY, Route("10.0.0.0/8", False, False, "eth1", ""))},
            WARNING,
            network.REVERSE_PATH,
        ),
        (
            {"routes": (AWAY, Route("10.0.0.0/8", False, False, "", ""))},
            WARNING,
            network.REVERSE_PATH,
        ),
        ({"routes": (replace(AWAY, source=str(VIP)),)}, FAULT, network.SOURCE),
        ({"settings": {"arp_ignore": 2}}, FAULT, network.ARP),
        ({"settings": {"arp_ignore": 8}}, FAULT, network.ARP),
        ({"settings": {"arp_ignore": 1}, "holders": ("lo",)}, FAULT, network.ARP),
        (
            {"settings": {"arp_filter": 1}, "routes": (AWAY, replace(LOCAL, leaves_by="eth2"))},
            FAULT,
            network.ARP,
        ),
        ({"settings": {"icmp_echo_ignore_all": 1}}, NOTE, network.PING),
    ],
)
def test_what_is_wrong_with_a_node(changed: dict[str, Any], severity: Severity, check: str) -> None:
    marks = found(network.judge(replace(HOST, **changed), WANTED))
    assert (severity, check) in marks
    assert all(other == (severity, check) or other[0] in (NOTE, LEFT_OUT) for other in marks)


def test_what_is_no_trouble() -> None:
    for changed in (
        {"settings": {"arp_ignore": 1, "proxy_arp": 1, "rp_filter": 1}},
        {"settings": {"drop_unicast_in_l2_multicast": 1}},
        {"has_mac": False, "hears_all": True},
        {"routes": (AWAY, Route("198.19.0.0/16", True, False, "eth1", "198.19.0.1"))},
        {"routes": (AWAY, Route("198.19.0.0/16", True, True, "eth1", "198.19.0.1"))},
    ):
        assert found(network.judge(replace(HOST, **changed), WANTED)) == set(), changed


def test_an_address_without_a_daemon() -> None:
    stranger = replace(WANTED, serving=False)
    assert found(network.judge(replace(HOST, rules=False), stranger)) == {
        (FAULT, network.VIP_PLACE)
    }
    assert found(network.judge(HOST, stranger)) == {(WARNING, network.VIP_PLACE)}
    unknown = replace(WANTED, serving=None)
    assert found(network.judge(replace(HOST, rules=False), unknown)) == {(FAULT, network.VIP_PLACE)}
    assert found(network.judge(HOST, unknown)) == set()
    assert found(network.judge(replace(HOST, rules=None), unknown)) == set()
    proxy = replace(HOST, holders=(), settings={"proxy_arp": 1})
    assert found(network.judge(proxy, stranger)) == {(WARNING, network.ARP)}


def test_the_daemon_is_started_and_restarted_by_the_name_of_its_unit() -> None:
    fixes = {
        one.fix
        for host, wanted in (
            (replace(HOST, holders=()), WANTED),
            (replace(HOST, rules=False), WANTED),
            (HOST, replace(WANTED, serving=False)),
        )
        for one in network.judge(host, wanted)
        if one.check in (network.VIP_PLACE, network.RULES) and one.severity is not SOUND
    }
    assert fixes == {"systemctl restart maglev0", "systemctl start maglev0"}


def test_a_machine_without_an_address_that_packets_could_be_for() -> None:
    silent = replace(
        HOST,
        interface=Interface("eth0", "02:4d:47:00:00:01", ""),
        holders=(),
        routes=(replace(AWAY, accepted=None),),
    )
    assert found(network.judge(silent, replace(WANTED, serving=None))) == {
        (LEFT_OUT, network.REVERSE_PATH)
    }


def test_the_vip_as_the_only_address_is_the_source_of_everything() -> None:
    alone = replace(
        HOST,
        interface=Interface("eth0", "02:4d:47:00:00:01", ""),
        routes=(replace(AWAY, source=str(VIP)),),
    )
    (finding_,) = [one for one in network.judge(alone, WANTED) if one.check == network.SOURCE]
    assert finding_.fix == "give eth0 an address of its own"


def test_clusterip_cannot_save_unicast_in_multicast_frames() -> None:
    host = replace(HOST, settings={"drop_unicast_in_l2_multicast": 1})
    assert found(network.judge(host, replace(WANTED, clusterip=True))) == {
        (FAULT, network.MULTICAST)
    }


def test_a_cluster_mac_that_switches_take_for_a_groups() -> None:
    wanted = replace(WANTED, cluster_mac="01:00:5e:33:64:01")
    assert found(network.judge(HOST, wanted)) == {(WARNING, network.GROUP)}
    assert (
        found(network.judge(replace(HOST, groups=frozenset({"01:00:5e:33:64:01"})), wanted))
        == set()
    )


def test_the_summary_counts_checks_once_and_the_worst_comes_first() -> None:
    found = [
        finding.note("a", "x", "y"),
        *finding.judged(
            "b",
            "well",
            finding.fault("b", "x", "y", "z"),
            None,
            finding.warning("b", "x", "y", "z"),
        ),
        *finding.judged("c", "well", None),
    ]
    assert [one.severity for one in finding.worst_first(found)] == [FAULT, WARNING, NOTE, SOUND]
    assert finding.summary_text(found) == "3 checks, 1 fault, 1 warning"
    assert (
        finding.summary_text([finding.left_out("d", "why")])
        == "1 check, 0 faults, 0 warnings, 1 left out"
    )
