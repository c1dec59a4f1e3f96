"""The nftables dataplane by its result: what this kernel lists after each step, compared with what was asked."""

from __future__ import annotations

import asyncio
import pickle
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from maglev0.dataplane import Change, choose, nfdump, ruleset
from maglev0.dataplane.nftables import Nftables, check
from maglev0.errors import DataplaneError
from maglev0.service import HashMode, Service
from tests.kernel.conftest import CABLE, INTERFACE, Host

pytestmark = pytest.mark.kernel

SERVICE = Service(IPv4Address("198.51.100.1"), INTERFACE, "03:bf:c6:33:64:01", 5, HashMode.SOURCE_IP, 7)
OTHER = Service(IPv4Address("198.51.100.2"), INTERFACE, "03:bf:c6:33:64:02", 5, HashMode.SOURCE_IP, 7)
FOREIGN = "table inet filter { chain input { type filter hook input priority 0; tcp dport 22 counter accept; }; }"
NOTICE_S = 5.0  # how long the kernel's notice of a change may take on a machine whose cores are all busy


@asynccontextmanager
async def opened(service: Service = SERVICE) -> AsyncIterator[Nftables]:
    dataplane = Nftables(service)
    try:
        await dataplane.open()
        yield dataplane
    finally:
        await dataplane.close()


KILLED = """
import asyncio, os, pickle, signal, sys
from maglev0.dataplane.nftables import Nftables

async def main(service, owned):
    dataplane = Nftables(service)
    await dataplane.open()
    await dataplane.apply(owned)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*pickle.load(sys.stdin.buffer)))
"""


def killed_with(owned: frozenset[int]) -> None:
    """Let a process open the service, own these buckets and die by SIGKILL."""
    child = subprocess.run([sys.executable, "-c", KILLED], input=pickle.dumps((SERVICE, owned)), check=False)
    assert child.returncode == -signal.SIGKILL


def rules(host: Host) -> str:
    """Our table without the elements of its sets."""
    return host.run("nft", "-t", "list", "table", "ip", ruleset.table_name(SERVICE.vip))


def test_this_kernel_can_serve(host: Host) -> None:
    before = host.ruleset()
    check()
    assert host.ruleset() == before == ""


def test_open_adds_rules_mac_and_address_and_close_removes_them_all(host: Host) -> None:
    async def scenario() -> None:
        before = (host.ruleset(), host.addresses(), host.multicast())
        dataplane = Nftables(SERVICE)
        await dataplane.open()
        assert "maglev0_198.51.100.1" in host.ruleset()
        assert "198.51.100.1/32" in host.addresses()
        assert SERVICE.cluster_mac in host.multicast()
        assert await dataplane.owned() == frozenset()
        await dataplane.close()
        await dataplane.close()
        assert (host.ruleset(), host.addresses(), host.multicast()) == before

    asyncio.run(scenario())


def test_what_was_found_stays(host: Host) -> None:
    host.run("nft", FOREIGN)
    host.run("ip", "address", "add", "198.51.100.1/32", "dev", INTERFACE)
    host.run("ip", "maddress", "add", SERVICE.cluster_mac, "dev", INTERFACE)
    before = (host.ruleset(), host.addresses(), host.multicast())

    async def scenario() -> None:
        async with opened() as dataplane:
            await dataplane.apply(frozenset({1}))
            assert "counter" in host.ruleset()

    asyncio.run(scenario())
    assert (host.ruleset(), host.addresses(), host.multicast()) == before


@pytest.mark.parametrize("total_nodes", [1, 2, 5, 251, 65_537])
@pytest.mark.parametrize("mode", HashMode)
def test_the_kernel_holds_what_was_asked_from_any_state_to_any_other(host: Host, mode: HashMode, total_nodes: int) -> None:
    rng = random.Random(total_nodes)
    service = replace(SERVICE, hash_mode=mode, total_nodes=total_nodes)

    async def scenario() -> None:
        async with opened(service) as dataplane:
            held: frozenset[int] = frozenset()
            for _step in range(6):
                wanted = frozenset(rng.sample(range(1, total_nodes + 1), rng.randint(0, total_nodes)))
                assert await dataplane.apply(wanted) == Change(wanted - held, held - wanted)
                assert await dataplane.owned() == wanted
                assert await dataplane.apply(wanted) == Change(frozenset(), frozenset())
                held = wanted

    asyncio.run(scenario())
    assert host.ruleset() == ""


def test_a_million_buckets_load_in_pieces_that_let_the_loop_breathe(host: Host) -> None:
    total = 1 << 20

    async def scenario() -> None:
        async with opened(replace(SERVICE, total_nodes=total)) as dataplane:
            turns = 0

            async def breathe() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            breathing = asyncio.create_task(breathe())
            await dataplane.apply(frozenset(range(1, 200_001)))
            breathing.cancel()
            assert turns >= 200_000 // ruleset.MAX_TRANSACTION
            assert len(await dataplane.owned()) == 200_000

    asyncio.run(scenario())
    assert host.ruleset() == ""


def test_what_a_killed_daemon_left_is_adopted(host: Host) -> None:
    async def scenario() -> None:
        killed_with(frozenset({2, 4}))
        listed = rules(host)
        async with opened() as dataplane:
            assert await dataplane.owned() == {2, 4}
            assert rules(host) == listed
            assert await dataplane.apply(frozenset({2, 5})) == Change(frozenset({5}), frozenset({4}))

    before = (host.addresses(), host.multicast())
    asyncio.run(scenario())
    assert (host.ruleset(), host.addresses(), host.multicast()) == ("", *before)


@pytest.mark.parametrize(
    "changed", [replace(SERVICE, hash_seed=8), replace(SERVICE, total_nodes=6), replace(SERVICE, hash_mode=HashMode.SOURCE_IP_PORT)]
)
def test_buckets_left_under_other_parameters_are_not_adopted(host: Host, changed: Service) -> None:
    async def scenario() -> None:
        killed_with(frozenset({2, 4}))
        async with opened(changed) as dataplane:
            assert await dataplane.owned() == frozenset()
            assert f"seed {changed.hash_seed:#x}" in rules(host)

    asyncio.run(scenario())
    assert "198.51.100.1" not in host.addresses()
    assert host.ruleset() == ""


def test_rules_that_were_tampered_with_while_no_daemon_ran_are_repaired_at_start(host: Host) -> None:
    name = ruleset.table_name(SERVICE.vip)

    async def scenario() -> None:
        killed_with(frozenset({3}))
        listed = rules(host)
        host.run("nft", f"flush chain ip {name} early_judge; add rule ip {name} early_judge accept")
        host.run("ip", "address", "del", "198.51.100.1/32", "dev", INTERFACE)
        async with opened() as dataplane:
            assert rules(host) == listed
            assert "198.51.100.1/32" in host.addresses()
            assert await dataplane.owned() == {3}

    asyncio.run(scenario())
    assert host.ruleset() == ""


TAMPERINGS = {
    "flush ruleset": (("nft", "flush", "ruleset"), "the nftables rules"),
    "a rule inserted": (("nft", "insert", "rule", "ip", "maglev0_198.51.100.1", "early_judge", "accept"), "the nftables rules"),
    "an element added": (("nft", "add element ip maglev0_198.51.100.1 owned { 5 }"), "the nftables rules"),
    "an element removed": (("nft", "delete element ip maglev0_198.51.100.1 owned { 1 }"), "the nftables rules"),
    "arp table removed": (("nft", "delete", "table", "arp", "maglev0_198.51.100.1"), "the nftables rules"),
    "the address removed": (("ip", "address", "del", "198.51.100.1/32", "dev", INTERFACE), "the address 198.51.100.1"),
}


@pytest.mark.parametrize("case", TAMPERINGS)
def test_what_others_take_away_is_noticed_and_restored(host: Host, case: str) -> None:
    command, thing = TAMPERINGS[case]

    async def scenario() -> None:
        async with opened() as dataplane:
            await dataplane.apply(frozenset({1, 3}))
            before = (host.ruleset(), host.addresses())
            noticed = asyncio.create_task(dataplane.disturbed())
            await asyncio.sleep(0)
            host.run(*command)
            await asyncio.wait_for(noticed, NOTICE_S)
            assert thing in await dataplane.repair()
            assert (host.ruleset(), host.addresses()) == before
            assert await dataplane.repair() == ()

    asyncio.run(scenario())
    assert host.ruleset() == ""


def test_the_cluster_mac_is_restored_with_whatever_else_is_noticed(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            host.run("ip", "maddress", "del", SERVICE.cluster_mac, "dev", INTERFACE)
            assert await dataplane.repair() == (f"the cluster MAC {SERVICE.cluster_mac} on {INTERFACE}",)
            assert SERVICE.cluster_mac in host.multicast()

    asyncio.run(scenario())


def test_our_own_changes_and_those_of_others_tables_disturb_nobody(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as dataplane, opened(OTHER) as other:
            noticed = asyncio.create_task(dataplane.disturbed())
            await asyncio.sleep(0)
            await dataplane.apply(frozenset({1, 2}))
            await other.apply(frozenset({3}))
            host.run("nft", FOREIGN)
            host.run("nft", "delete", "table", "inet", "filter")
            # A change that does concern us comes last: had an earlier one woken the waiter, the address would still be there.
            host.run("ip", "address", "del", "198.51.100.1/32", "dev", INTERFACE)
            await asyncio.wait_for(noticed, NOTICE_S)
            assert await dataplane.repair() == ("the address 198.51.100.1",)

    asyncio.run(scenario())


def test_two_services_share_a_host_and_leave_it_one_by_one(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as first:
            async with opened(OTHER) as second:
                await first.apply(frozenset({1}))
                await second.apply(frozenset({2}))
                assert await first.owned() == {1}
                assert await second.owned() == {2}
            assert await first.owned() == {1}
            assert "198.51.100.1/32" in host.addresses()
            assert "198.51.100.2/32" not in host.addresses()

    asyncio.run(scenario())
    assert host.ruleset() == ""


def test_a_link_that_is_down_cannot_serve_until_it_is_up(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            noticed = asyncio.create_task(dataplane.disturbed())
            await asyncio.sleep(0)
            await asyncio.to_thread(host.network.pull, CABLE)  # pyroute2 runs a loop of its own
            await asyncio.wait_for(noticed, NOTICE_S)
            with pytest.raises(DataplaneError, match="eth0 is down or without a carrier"):
                await dataplane.repair()
            await asyncio.to_thread(host.network.push, CABLE)  # pyroute2 runs a loop of its own
            await dataplane.repair()

    asyncio.run(scenario())


def test_an_interface_that_vanishes_is_named_and_close_still_cleans(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            await asyncio.to_thread(host.network.remove, CABLE)  # pyroute2 runs a loop of its own
            with pytest.raises(DataplaneError, match="interface eth0 is gone"):
                await dataplane.repair()

    asyncio.run(scenario())
    assert host.ruleset() == ""


def test_an_interface_that_is_renamed_takes_the_address_down_until_its_name_is_back(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            host.run("ip", "link", "set", INTERFACE, "name", "eth9")
            with pytest.raises(DataplaneError, match="interface eth0 is gone"):
                await dataplane.repair()
            assert "198.51.100.1" not in host.run("ip", "address")
            host.run("ip", "link", "set", "eth9", "name", INTERFACE)
            assert "the address 198.51.100.1" in await dataplane.repair()

    asyncio.run(scenario())


def test_our_address_moves_to_the_interface_that_serves_now(host: Host) -> None:
    host.run("ip", "link", "add", "eth1", "up", "type", "veth", "peer", "name", "far")
    host.run("ip", "link", "set", "far", "up")
    killed_with(frozenset({1}))

    async def scenario() -> None:
        async with opened(replace(SERVICE, interface="eth1")):
            assert "198.51.100.1" not in host.addresses()
            assert "198.51.100.1/32" in host.run("ip", "-brief", "address", "show", "dev", "eth1")

    asyncio.run(scenario())
    assert "198.51.100.1" not in host.run("ip", "address")


def test_an_address_that_others_put_on_another_interface_is_refused(host: Host) -> None:
    host.run("ip", "link", "add", "eth1", "up", "type", "veth", "peer", "name", "far")
    host.run("ip", "address", "add", "198.51.100.1/32", "dev", "eth1")

    async def scenario() -> None:
        with pytest.raises(DataplaneError, match=r"198\.51\.100\.1 stands on another interface than eth0"):
            async with opened():
                pass

    asyncio.run(scenario())
    assert "198.51.100.1/32" in host.run("ip", "-brief", "address", "show", "dev", "eth1")
    assert host.ruleset() == ""


def test_an_address_on_the_loopback_serves_as_well(host: Host) -> None:
    host.run("ip", "address", "add", "198.51.100.1/32", "dev", "lo")

    async def scenario() -> None:
        async with opened():
            assert "198.51.100.1" not in host.addresses()

    asyncio.run(scenario())
    assert "198.51.100.1/32" in host.run("ip", "-brief", "address", "show", "dev", "lo")


def test_what_a_killed_daemon_left_lets_go_before_anything_else_is_known(host: Host) -> None:
    killed_with(frozenset({2, 4}))
    choose.let_go(SERVICE.vip)
    assert "elements" not in host.ruleset()
    assert "maglev0_198.51.100.1" in host.ruleset()
    asyncio.run(choose.remove_leftovers(SERVICE.vip))
    assert host.ruleset() == ""
    assert "198.51.100.1" not in host.addresses()


def test_where_nothing_was_left_there_is_nothing_to_let_go(host: Host) -> None:
    host.run("nft", FOREIGN)
    before = host.ruleset()
    choose.let_go(SERVICE.vip)
    asyncio.run(choose.remove_leftovers(SERVICE.vip))
    assert host.ruleset() == before


def test_rules_that_vanish_while_they_are_installed_are_not_taken_for_complete(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program's flush fell between the installation and its reading: the empty reading was remembered, and none ever differed from it."""

    async def scenario() -> None:
        async with opened() as dataplane:
            await dataplane.apply(frozenset({2}))
            before = host.ruleset()
            read = nfdump.structure

            def read_behind_a_flush(family: str, table: str) -> bytes:
                host.run("nft", "flush", "ruleset")
                return read(family, table)

            with monkeypatch.context() as patch:
                patch.setattr(nfdump, "structure", read_behind_a_flush)
                with pytest.raises(DataplaneError, match="another program removes them at once"):
                    await dataplane.repair()
            await dataplane.repair()
            assert host.ruleset() == before

    asyncio.run(scenario())


def test_applying_to_rules_that_are_gone_says_so_and_the_next_repair_applies_it(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            host.run("nft", "flush", "ruleset")
            with pytest.raises(DataplaneError, match="nft: "):
                await dataplane.apply(frozenset({4}))
            await dataplane.repair()
            assert await dataplane.owned() == {4}

    asyncio.run(scenario())
