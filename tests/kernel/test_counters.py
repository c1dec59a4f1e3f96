"""The kernel counts each packet for the VIP once, in the stage that accepted or refused it, and
counting disturbs nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from maglev0.core.service import HashFamily, HashMode, Service
from maglev0.dataplane.clusterip import guard, xtables
from maglev0.dataplane.dry_run import DryRun
from maglev0.dataplane.nftables import ruleset
from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.protocol.ports.dataplane import Dataplane
from maglev0.protocol.ports.readings import Count, Counters
from tests.kernel.conftest import Host
from tests.kernel.nft import (
    LEASE_MS,
    SERVICE,
    hand_over,
    killed_after,
    opened,
    owning,
    renew,
    rules,
)
from tests.kernel.wire import ACK, PSH, SYN, Wire, wired
from tests.support.one_host import INTERFACE

pytestmark = pytest.mark.kernel

WIDE = replace(SERVICE, total_nodes=65_537, hash_mode=HashMode.SOURCE_IP_PORT)
READ_S = 0.01  # of the loop's time, every second at most; a twentieth of that on an idle machine


@asynccontextmanager
async def counting(service: Service = SERVICE) -> AsyncIterator[Nftables]:
    dataplane = Nftables(service, LEASE_MS, counted=True)
    try:
        await dataplane.open()
        yield dataplane
    finally:
        await dataplane.close()


async def gained(dataplane: Dataplane, act: Callable[[], object]) -> dict[str, int]:
    """The packets that each counter counted for what was done, those that counted none left out."""
    before = await dataplane.counters()
    act()
    after = await dataplane.counters()
    assert before is not None
    assert after is not None
    pairs = {name: (getattr(before, name), getattr(after, name)) for name in Counters._fields}
    assert [name for name, (earlier, _later) in pairs.items() if earlier is None] == [
        "xdp_passed",
        "xdp_refused",
        "judged",
    ]
    grown = {
        name: later.packets - earlier.packets
        for name, (earlier, later) in pairs.items()
        if earlier is not None
    }
    sizes = {
        name: later.bytes - earlier.bytes
        for name, (earlier, later) in pairs.items()
        if earlier is not None
    }
    assert all(
        (sizes[name] > 0) == (count > 0) and sizes[name] >= 20 * count
        for name, count in grown.items()
    )
    return {name: count for name, count in grown.items() if count}


def test_each_packet_is_counted_once_where_its_fate_was_decided(host: Host) -> None:
    async def scenario(wire: Wire) -> None:
        async with counting() as dataplane:
            await hand_over(dataplane, [1, 2])
            ours, foreign = wire.client(1), wire.client(3)
            assert await gained(dataplane, lambda: ours.ask(SYN)) == {"no_lease": 1}
            await renew(dataplane)
            connected = wire.client(1)
            assert await gained(dataplane, connected.connect) == {"new_flows": 1, "established": 1}
            assert await gained(dataplane, connected.talks) == {"established": 1}
            assert await gained(dataplane, wire.client(2).datagram) == {"other": 1}
            assert await gained(dataplane, wire.client(2).ping) == {"other": 1}
            assert await gained(dataplane, lambda: wire.client(1).ask(PSH | ACK, b"stray")) == {
                "not_established": 1
            }
            for act in (foreign.datagram, foreign.ping, lambda: foreign.ask(SYN)):
                assert await gained(dataplane, act) == {"early_refused": 1}
            await hand_over(
                dataplane, [], [1]
            )  # the connection in it is kept, so early it still passes
            assert await gained(dataplane, connected.talks) == {"established": 1}
            assert await gained(dataplane, lambda: wire.client(1).ask(SYN)) == {"not_owned": 1}
            await dataplane.drop()
            assert await gained(dataplane, wire.client(2).datagram) == {"no_lease": 1}

    with wired(host, SERVICE) as wire:
        asyncio.run(scenario(wire))


def test_by_ports_each_protocol_is_counted_as_what_it_is(host: Host) -> None:
    service = replace(SERVICE, hash_mode=HashMode.SOURCE_IP_PORT_DEST_PORT, total_nodes=1)

    async def scenario(wire: Wire) -> None:
        async with counting(service) as dataplane:
            await hand_over(dataplane, [1])
            await renew(dataplane)
            assert await gained(dataplane, lambda: wire.client(1).ask(SYN)) == {"new_flows": 1}
            assert await gained(dataplane, wire.client(1).datagram) == {"other": 1}
            assert await gained(dataplane, wire.client(1).ping) == {"other": 1}

    with wired(host, service) as wire:
        asyncio.run(scenario(wire))


def test_counting_is_no_change_of_the_rules(host: Host) -> None:
    """Whatever was counted, nothing is to be repaired.

    And a daemon that counts adopts what one that does not has left, and the other way round.
    """

    async def scenario(wire: Wire) -> None:
        async with counting() as dataplane:
            await renew(dataplane)
            before = rules(host)
            for bucket in (1, 2, 3, 4, 5):
                wire.client(bucket).datagram()
            assert rules(host) != before
            assert await dataplane.repair() == ()
            wire.client(1).ask(SYN)
            assert await dataplane.counters() is not None

    async def adopted(wire: Wire, *, counted: bool) -> None:
        dataplane = Nftables(SERVICE, LEASE_MS, counted=counted)
        try:
            await dataplane.open()
            assert await dataplane.owned() == {1, 2}
            counters = await dataplane.counters()
            assert counters is not None
            assert (counters.early_refused is None) != counted
            assert counters.other == Count(2, 64)  # what an earlier daemon let pass is counted on
            wire.client(3).datagram()
            assert (" counter packets 1 " in rules(host)) == counted
        finally:
            await dataplane.close()

    with wired(host, SERVICE) as wire:
        asyncio.run(scenario(wire))
        for counted in (True, False):
            killed_after([*owning(1, 2), ("arm", ()), ("promote", ())])
            wire.client(1).datagram()
            wire.client(2).datagram()
            asyncio.run(adopted(wire, counted=counted))


def test_others_counters_and_rules_that_are_gone_are_no_trouble(host: Host) -> None:
    async def scenario() -> None:
        async with opened(guard=False) as dataplane:
            host.run(
                "nft", "add", "quota", "inet", "maglev0_198.51.100.1", "theirs", "{ over 1 mbytes }"
            )
            assert (await dataplane.counters()) == Counters(
                **dict.fromkeys((*ruleset.ACCEPTED, *ruleset.REFUSED), Count(0, 0))
            )
            host.run("nft", "flush", "ruleset")
            assert (await dataplane.counters()) == Counters()
            await dataplane.repair()
            assert (await dataplane.counters()) != Counters()

    asyncio.run(scenario())


def test_reading_is_cheap_at_any_number_of_buckets(host: Host) -> None:
    assert host.name

    async def scenario() -> float:
        async with counting(WIDE) as dataplane:
            await hand_over(dataplane, range(1, WIDE.total_nodes + 1))
            times_s = []
            for _reading in range(20):
                start_s = time.perf_counter()
                assert await dataplane.counters() is not None
                times_s.append(time.perf_counter() - start_s)
            return sorted(times_s)[10]

    assert asyncio.run(scenario()) < READ_S


def test_clusterip_counts_what_its_guard_passes_and_refuses(host: Host) -> None:
    """The guard alone, for this kernel may lack the target behind it.

    `ClusterIP.counters` hands on what is counted here.
    """
    host.run("ip", "address", "add", f"{SERVICE.vip}/32", "dev", INTERFACE)

    def counted() -> tuple[Count, Count]:
        with xtables.reading() as table:
            return guard.counted(table, SERVICE.vip)

    with wired(host, SERVICE) as wire:
        (link,) = json.loads(host.run("ip", "-json", "link", "show", "dev", INTERFACE))
        wire.reach(link["address"])  # nobody joins the cluster MAC here
        with xtables.changing() as table:
            guard.put_first(table, SERVICE, 60)
        assert counted() == (Count(0, 0), Count(0, 0))
        assert not wire.client(1).datagram()
        guard.promote(SERVICE.vip, guard.arm(SERVICE.vip))
        for bucket in (1, 2):
            assert wire.client(bucket).datagram()
        assert counted() == (Count(2, 64), Count(1, 32))


def test_a_dry_run_counts_nothing() -> None:
    assert asyncio.run(DryRun(HashFamily.NFTABLES).counters()) is None
