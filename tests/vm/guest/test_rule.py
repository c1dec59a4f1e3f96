"""Whose rule and address it is, what is adopted, what is replaced, and what is left behind.

Nothing of ours, all of others'.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from maglev0.core.service import HashMode, Service
from maglev0.core.transition import Move
from maglev0.dataplane.clusterip import dataplane as clusterip
from maglev0.dataplane.clusterip import proc_file
from maglev0.dataplane.clusterip.dataplane import ClusterIP
from maglev0.errors import DataplaneError
from tests.vm.guest import space as host
from tests.vm.guest.moves import ENDLESS_MS, own
from tests.vm.guest.space import BY_HAND, Space

OURS = "-A INPUT -d 198.51.100.1/32 -i eth0 -m comment --comment maglev0 -j CLUSTERIP"


def test_it_inserts_the_rule_and_the_address_with_no_bucket_in_force(dataplane: ClusterIP) -> None:
    assert not proc_file.is_set_up(dataplane._service.vip)
    asyncio.run(dataplane.open())
    assert proc_file.is_set_up(dataplane._service.vip)
    assert host.in_force() == ""
    assert host.addresses() == [f"{host.VIP}/32 eth0:maglev0"]
    (rule,) = host.clusterip_rules()
    assert rule.startswith(OURS)
    assert "--clustermac 01:00:5E:00:00:14 --total-nodes 5" in rule


def test_what_iptables_save_prints_of_our_rules_can_be_restored(dataplane: ClusterIP) -> None:
    asyncio.run(dataplane.open())
    before = host.iptables("-S")
    host.iptables("-F")
    host.iptables("-X")
    for rule in before.splitlines():
        host.iptables(rule)
    assert host.iptables("-S") == before


def test_a_second_open_changes_nothing(dataplane: ClusterIP) -> None:
    async def twice() -> None:
        await dataplane.open()
        await own(dataplane, frozenset({2, 4}))
        await dataplane.open()

    asyncio.run(twice())
    assert host.in_force() == "2,4"
    assert len(host.clusterip_rules()) == len(host.addresses()) == 1


def test_close_removes_all_of_ours_and_can_be_repeated(dataplane: ClusterIP) -> None:
    async def come_and_go() -> None:
        await dataplane.open()
        await own(dataplane, frozenset({1}))
        await dataplane.close()
        await dataplane.close()

    asyncio.run(come_and_go())
    assert host.in_force() is None
    assert host.clusterip_rules() == host.addresses() == []


def test_the_other_legacy_tables_are_not_created(dataplane: ClusterIP) -> None:
    asyncio.run(dataplane.open())
    assert Path("/proc/thread-self/net/ip_tables_names").read_text().split() == ["filter"]


def test_a_rule_and_address_made_by_hand_are_used_and_stay(dataplane: ClusterIP) -> None:
    host.iptables(BY_HAND)
    host.add_address(prefixlen=24)
    before = host.clusterip_rules()
    assert clusterip.rule_by_hand(dataplane._service.vip) == dataplane._service

    async def come_and_go() -> None:
        await dataplane.open()
        assert await dataplane.owned() == {1}
        assert await own(dataplane, frozenset({3, 4})) == Move(
            gains=frozenset({3, 4}), losses=frozenset({1})
        )
        assert host.in_force() == "3,4"
        await dataplane.close()

    asyncio.run(come_and_go())
    assert host.clusterip_rules() == before
    assert host.addresses() == [f"{host.VIP}/24 eth0"]
    assert host.in_force() == ""


def test_an_address_that_was_missing_under_a_rule_by_hand_is_ours_again_after_a_kill(
    dataplane: ClusterIP, service: Service
) -> None:
    host.iptables(BY_HAND)
    _in_a_child_that_is_killed(dataplane)
    assert host.addresses() == [f"{host.VIP}/32 eth0:maglev0"]

    async def come_and_go() -> None:
        second = ClusterIP(service, ENDLESS_MS)
        await second.open()
        await second.close()

    asyncio.run(come_and_go())
    assert host.addresses() == []
    assert len(host.clusterip_rules()) == 1


def test_what_a_killed_daemon_left_is_adopted_and_removed_in_the_end(
    dataplane: ClusterIP, service: Service
) -> None:
    _in_a_child_that_is_killed(dataplane)
    assert host.in_force() == "2,5"
    assert clusterip.rule_by_hand(service.vip) is None

    async def come_and_go() -> None:
        second = ClusterIP(service, ENDLESS_MS)
        await second.open()
        assert await second.owned() == {2, 5}
        assert len(host.clusterip_rules()) == 1
        await second.close()

    asyncio.run(come_and_go())
    assert host.in_force() is None
    assert host.addresses() == []


def test_what_a_killed_daemon_left_for_another_cluster_is_replaced(
    dataplane: ClusterIP, service: Service
) -> None:
    _in_a_child_that_is_killed(dataplane)
    other = replace(
        service, hash_mode=HashMode.SOURCE_IP_PORT_DEST_PORT, hash_seed=0xFFFF_FFFF, total_nodes=16
    )
    asyncio.run(ClusterIP(other, ENDLESS_MS).open())
    (rule,) = host.clusterip_rules()
    assert "--hashmode sourceip-sourceport-destport" in rule
    assert f"--hash-init {0xFFFF_FFFF}" in rule
    assert host.in_force() == ""
    assert len(host.addresses()) == 1


@pytest.mark.usefixtures("space")
@pytest.mark.parametrize(
    ("contradiction", "named"),
    [
        (
            {"hash_mode": HashMode.SOURCE_IP_PORT},
            "its --hashmode is sourceip, not sourceip-sourceport",
        ),
        (
            {"cluster_mac": "03:bf:c6:33:64:01"},
            "its --clustermac is 01:00:5e:00:00:14, not 03:bf:c6:33:64:01",
        ),
        ({"total_nodes": 7}, "its --total-nodes is 5, not 7"),
        ({"hash_seed": 9}, "its --hash-init is 0, not 9"),
        ({"interface": "lo"}, "its interface is eth0, not lo"),
    ],
)
def test_a_rule_by_hand_that_contradicts_is_refused_by_name_and_stays(
    service: Service, contradiction: dict[str, object], named: str
) -> None:
    host.iptables(BY_HAND)

    async def try_it() -> None:
        dataplane = ClusterIP(replace(service, **contradiction), ENDLESS_MS)  # type: ignore[arg-type]
        with pytest.raises(DataplaneError, match=named):
            await dataplane.open()
        assert host.in_force() == "1"
        await dataplane.close()

    asyncio.run(try_it())
    assert host.in_force() == ""
    assert len(host.clusterip_rules()) == 1
    assert host.addresses() == []


def test_rules_of_others_stay_where_they_are(dataplane: ClusterIP) -> None:
    for rule in (
        "-A INPUT -p tcp --dport 22 -j ACCEPT",
        "-N guard",
        "-A guard -m comment --comment maglev0 -j DROP",
        "-A INPUT -j guard",
    ):
        host.iptables(rule)
    host.iptables(BY_HAND.replace("198.51.100.1", "198.51.100.2"))
    before = host.iptables("-S")

    async def come_and_go() -> None:
        await dataplane.open()
        await own(dataplane, frozenset({2}))
        await dataplane.close()

    asyncio.run(come_and_go())
    assert host.iptables("-S") == before


def test_one_process_serves_namespace_after_namespace(service: Service) -> None:
    """The library's table objects outlive the namespace that they were made in."""

    async def come_and_go(stay: bool) -> None:
        dataplane = ClusterIP(service, ENDLESS_MS)
        await dataplane.open()
        assert host.in_force() == ""
        if not stay:
            await dataplane.close()
            assert host.in_force() is None

    for stay in (True, False, True, False):
        with Space.made():
            assert host.in_force() is None
            asyncio.run(come_and_go(stay))


def _in_a_child_that_is_killed(dataplane: ClusterIP) -> None:
    """Open and own 2 and 5 in a process of its own that ends by SIGKILL, in this thread's
    namespace.
    """

    async def serve_and_die() -> None:
        await dataplane.open()
        await own(dataplane, frozenset({2, 5}))
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            asyncio.run(serve_and_die())
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child failed before it was killed"
