"""The nftables dataplane by its result.

What this kernel lists after each step, compared with what was asked.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from maglev0.core.service import HashMode, Service
from maglev0.core.transition import Move
from maglev0.dataplane.nftables import buckets as nfbuckets
from maglev0.dataplane.nftables import ruleset
from maglev0.dataplane.nftables.dataplane import Nftables, check, remove_leftovers
from maglev0.dataplane.nftables.reader import TableReader
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.gate import Commit
from tests.kernel.conftest import Host
from tests.kernel.nft import (
    LEASE_MS,
    NOTHING,
    SERVICE,
    TABLE,
    Listed,
    doomed,
    hand_over,
    killed_after,
    listed,
    opened,
    owning,
    renew,
    rules,
)
from tests.support.one_host import INTERFACE
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.kernel

OTHER = Service(
    IPv4Address("198.51.100.2"), INTERFACE, "03:bf:c6:33:64:02", 5, HashMode.SOURCE_IP, 7
)
FOREIGN = (
    "table inet filter { chain input { type filter hook input priority 0; "
    "tcp dport 22 counter accept; }; }"
)


def test_this_kernel_can_serve(host: Host) -> None:
    before = host.ruleset()
    check()
    assert host.ruleset() == before == ""


def test_open_adds_rules_mac_and_address_and_close_removes_them_all(host: Host) -> None:
    async def scenario() -> None:
        before = (host.ruleset(), host.addresses(), host.multicast())
        dataplane = Nftables(SERVICE, LEASE_MS)
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
            await hand_over(dataplane, {1})
            assert "counter" in host.ruleset()

    asyncio.run(scenario())
    assert (host.ruleset(), host.addresses(), host.multicast()) == before


@pytest.mark.parametrize("total_nodes", [1, 2, 5, 251, 65_537])
@pytest.mark.parametrize("mode", HashMode)
def test_the_kernel_holds_what_was_asked_from_any_state_to_any_other(
    host: Host, mode: HashMode, total_nodes: int
) -> None:
    rng = random.Random(total_nodes)
    service = replace(SERVICE, hash_mode=mode, total_nodes=total_nodes)

    async def scenario() -> None:
        async with opened(service) as dataplane:
            held: frozenset[int] = frozenset()
            for _step in range(6):
                wanted = frozenset(
                    rng.sample(range(1, total_nodes + 1), rng.randint(0, total_nodes))
                )
                await hand_over(dataplane, wanted - held, held - wanted)
                assert await dataplane.owned() == wanted
                held = wanted

    asyncio.run(scenario())
    assert host.ruleset() == ""


@pytest.mark.parametrize("guard", [True, False])
def test_the_loop_turns_while_a_large_move_is_loaded_and_read_back(host: Host, guard: bool) -> None:
    total = 65_537

    async def scenario() -> None:
        async with opened(replace(SERVICE, total_nodes=total), guard=guard) as dataplane:
            turns = 0

            async def breathe() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            breathing = asyncio.create_task(breathe())
            await hand_over(dataplane, range(1, total + 1))
            assert turns >= total // nfbuckets.PIECE
            turns = 0
            assert len(await dataplane.owned()) == total
            assert turns >= 10
            breathing.cancel()

    asyncio.run(scenario())
    assert host.ruleset() == ""


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("guard", [True, False])
def test_what_is_read_back_is_right_while_others_change_the_rules_without_a_pause(
    guard: bool,
) -> None:
    """Each change of any rule in the namespace marks every dump that it falls into as interrupted.

    Another VIP's renewals are such changes.
    """
    total = 65_537
    buckets = frozenset(range(1, total, 2))

    async def scenario() -> None:
        async with opened(replace(SERVICE, total_nodes=total), guard=guard) as dataplane:
            others = TableReader(ruleset.table_name(OTHER.vip))
            with (
                closing(others),
                doomed([("arm", ()), ("promote", ())] * 100_000, service=OTHER) as child,
            ):
                await_table(others)
                await hand_over(dataplane, buckets)
                assert await dataplane.owned() == buckets
                await hand_over(dataplane, (), buckets)
                assert await dataplane.kept() == buckets
                child.kill()

    asyncio.run(scenario())


def await_table(reader: TableReader) -> None:
    while not reader.structure("inet"):
        time.sleep(0.01)


def test_a_million_buckets_load(host: Host) -> None:
    async def scenario() -> None:
        async with opened(replace(SERVICE, total_nodes=1 << 20)) as dataplane:
            await hand_over(dataplane, range(1, 200_001))
            assert len(await dataplane.owned()) == 200_000

    asyncio.run(scenario())
    assert host.ruleset() == ""


@pytest.mark.parametrize("guard", [True, False])
def test_what_a_killed_daemon_left_is_adopted(host: Host, guard: bool) -> None:
    async def scenario() -> None:
        killed_after([*owning(2, 4), ("arm", ()), ("promote", ())], guard=guard)
        left, in_kernel = rules(host), listed(host)
        assert in_kernel == Listed(frozenset({2, 4}), frozenset({2, 4}), leased=True)
        async with opened(guard=guard) as dataplane:
            assert await dataplane.owned() == {2, 4}
            assert rules(host) == left
            assert listed(host) == in_kernel
            await hand_over(dataplane, {5}, {4})
            assert await dataplane.owned() == {2, 5}
            assert await dataplane.kept() == {4}

    before = (host.addresses(), host.multicast())
    asyncio.run(scenario())
    assert (host.ruleset(), host.addresses(), host.multicast()) == ("", *before)


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_hand_over_that_a_killed_daemon_left_half_done_stays_where_it_was(steps: int) -> None:
    """Loaded, nothing changed.

    Released, what was lost is out of force for the next daemon, too. Connections are kept in any
    case.
    """
    half = [
        *owning(1, 2),
        ("stage", (Move(frozenset({3}), frozenset({2})),)),
        ("commit", (Commit.RELEASE,)),
        ("commit", (Commit.ACQUIRE,)),
    ]

    async def scenario() -> None:
        killed_after(half[: 4 + steps])
        async with opened() as dataplane:
            assert await dataplane.owned() == [{1, 2}, {1}, {1, 3}][steps]
            assert await dataplane.owned() | await dataplane.kept() == {1, 2, 3}
            with pytest.raises(DataplaneError, match="no move is staged"):
                await dataplane.commit(Commit.ACQUIRE)
            await dataplane.unpin(frozenset({1, 2, 3, 4}))
            assert await dataplane.kept() == NOTHING
            await hand_over(dataplane, {4}, {1})
            assert await dataplane.owned() == [{2, 4}, {4}, {3, 4}][steps]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "changed",
    [
        replace(SERVICE, hash_seed=8),
        replace(SERVICE, total_nodes=6),
        replace(SERVICE, hash_mode=HashMode.SOURCE_IP_PORT),
    ],
)
def test_buckets_left_under_other_parameters_are_not_adopted(host: Host, changed: Service) -> None:
    async def scenario() -> None:
        killed_after([*owning(2, 4), ("arm", ()), ("promote", ())])
        async with opened(changed) as dataplane:
            assert await dataplane.owned() == NOTHING
            assert listed(host) == Listed(NOTHING, NOTHING, leased=False)
            assert f"seed {changed.hash_seed:#x}" in rules(host)

    asyncio.run(scenario())
    assert "198.51.100.1" not in host.addresses()
    assert host.ruleset() == ""


def test_rules_that_were_tampered_with_while_no_daemon_ran_are_repaired_at_start(
    host: Host,
) -> None:
    async def scenario() -> None:
        killed_after(owning(3))
        left = rules(host)
        host.run("nft", f"flush chain inet {TABLE} judge; add rule inet {TABLE} judge accept")
        host.run("ip", "address", "del", "198.51.100.1/32", "dev", INTERFACE)
        async with opened() as dataplane:
            assert rules(host) == left
            assert "198.51.100.1/32" in host.addresses()
            assert await dataplane.owned() == {3}

    asyncio.run(scenario())
    assert host.ruleset() == ""


def test_the_cluster_mac_is_restored_with_whatever_else_is_noticed(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            host.run("ip", "maddress", "del", SERVICE.cluster_mac, "dev", INTERFACE)
            assert await dataplane.repair() == (
                f"the cluster MAC {SERVICE.cluster_mac} on {INTERFACE}",
            )
            assert SERVICE.cluster_mac in host.multicast()

    asyncio.run(scenario())


@pytest.mark.parametrize("guard", [True, False])
def test_our_own_changes_and_those_of_others_tables_disturb_nobody(host: Host, guard: bool) -> None:
    async def scenario() -> None:
        async with opened(guard=guard) as dataplane, opened(OTHER, guard=guard) as other:
            noticed = asyncio.create_task(dataplane.disturbed())
            await asyncio.sleep(0)
            await hand_over(dataplane, {1, 2})
            await renew(dataplane)
            await hand_over(other, {3})
            host.run("nft", FOREIGN)
            host.run("nft", "delete", "table", "inet", "filter")
            # A change that does concern us comes last: had an earlier one woken the waiter, the
            # address would still be there.
            host.run("ip", "address", "del", "198.51.100.1/32", "dev", INTERFACE)
            await asyncio.wait_for(noticed, PATIENCE_S)
            assert await dataplane.repair() == ("the address 198.51.100.1",)

    asyncio.run(scenario())


def test_two_services_share_a_host_and_leave_it_one_by_one(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as first:
            async with opened(OTHER) as second:
                await hand_over(first, {1})
                await hand_over(second, {2})
                assert await first.owned() == {1}
                assert await second.owned() == {2}
            assert await first.owned() == {1}
            assert "198.51.100.1/32" in host.addresses()
            assert "198.51.100.2/32" not in host.addresses()

    asyncio.run(scenario())
    assert host.ruleset() == ""


@pytest.mark.parametrize("guard", [True, False])
def test_what_a_killed_daemon_left_is_removed(host: Host, guard: bool) -> None:
    before = (host.ruleset(), host.addresses())
    killed_after(owning(2, 4), guard=guard)
    assert TABLE in host.ruleset()
    asyncio.run(remove_leftovers(SERVICE.vip))
    assert (host.ruleset(), host.addresses()) == before


def test_where_nothing_was_left_nothing_is_removed(host: Host) -> None:
    host.run("nft", FOREIGN)
    before = host.ruleset()
    asyncio.run(remove_leftovers(SERVICE.vip))
    assert host.ruleset() == before
