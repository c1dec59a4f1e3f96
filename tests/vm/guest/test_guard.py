"""The guard stands before the target as long as a daemon serves, is put back with the lease ended,
and nothing of it remains.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from maglev0.core.packet_hash import PacketFields
from maglev0.core.service import HashMode, Service
from maglev0.dataplane.clusterip import dataplane as clusterip
from maglev0.dataplane.clusterip import guard
from maglev0.dataplane.clusterip.dataplane import POLL_INTERVAL_S, ClusterIP
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.protocol.ports.gate import Commit
from tests.vm.guest import space as host
from tests.vm.guest.moves import ENDLESS_MS, own, renew
from tests.vm.guest.space import BY_HAND
from tests.vm.guest.wire import UDP, VIP, Wire

NOTICE_TIMEOUT_S = 10 * POLL_INTERVAL_S  # all is slow here
NAME = f"maglev0-{VIP}"
JUMP = f"-A INPUT -d {VIP}/32 -i eth0 -m comment --comment maglev0 -j {NAME}"
FLOW = PacketFields(IPv4Address("192.0.2.77"), UDP, 1234, 4321)
EVERYTHING = frozenset(range(1, 6))


def listed_guard(lease_s: int) -> list[str]:
    """The guard as iptables prints it."""

    def recent(name: str, seconds: str = "") -> str:
        return (
            f"-m recent --rcheck{seconds} --hitcount 1 --name {NAME}-{name} --mask "
            "255.255.255.255 --rdest"
        )

    passes = [
        (
            f"-A {NAME} {recent(f'mark{slot}')} "
            f"{recent(f'timer{slot}', f' --seconds {lease_s}')} -j RETURN"
        )
        for slot in (0, 1)
    ]
    return [*passes, f"-A {NAME} -j DROP"]


def guard_rules() -> list[str]:
    return host.iptables(f"-S {NAME}").splitlines()[1:]


def lists() -> list[str]:
    return sorted(path.name for path in Path("/proc/thread-self/net/xt_recent").iterdir())


@pytest.mark.parametrize("lease_ms", [1000, 2000, 5999, 40_000])
@pytest.mark.usefixtures("space")
def test_the_rules_are_what_the_module_says(service: Service, lease_ms: int) -> None:
    asyncio.run(ClusterIP(service, lease_ms).open())
    assert guard_rules() == listed_guard(lease_ms // 1000)
    first, second = host.iptables("-S INPUT").splitlines()[1:]
    assert first == JUMP
    assert "-j CLUSTERIP" in second
    assert lists() == [f"{NAME}-{kind}{slot}" for kind in ("mark", "timer") for slot in (0, 1)]


@pytest.mark.usefixtures("space")
def test_a_lease_that_the_kernel_cannot_count_is_refused(service: Service) -> None:
    with pytest.raises(UnavailableError, match="shorter than one"):
        asyncio.run(ClusterIP(service, 999).open())
    assert host.clusterip_rules() == host.addresses() == []


@pytest.mark.parametrize("by_hand", [True, False])
def test_nothing_remains(dataplane: ClusterIP, by_hand: bool) -> None:
    host.iptables("-A INPUT -p tcp --dport 22 -j ACCEPT")
    if by_hand:
        host.iptables(BY_HAND)
    before = host.iptables("-S")

    async def come_and_go() -> None:
        await dataplane.open()
        await renew(dataplane)
        await own(dataplane, frozenset({2, 3}))
        assert host.iptables("-S INPUT").splitlines()[1] == JUMP
        await dataplane.close()
        await dataplane.close()

    asyncio.run(come_and_go())
    assert host.iptables("-S") == before
    assert lists() == []
    assert host.addresses() == []


@pytest.mark.parametrize(
    ("disturb", "restored", "is_noticed"),
    [
        (("-F",), ("the CLUSTERIP rule", "the guard", "the owned buckets"), True),
        (("-F", "-X"), ("the CLUSTERIP rule", "the guard", "the owned buckets"), True),
        (("-F INPUT",), ("the CLUSTERIP rule", "the guard", "the owned buckets"), True),
        (("-D INPUT 2",), ("the CLUSTERIP rule", "the owned buckets"), True),
        ((f"-F {NAME}",), ("the guard",), True),
        ((f"-D {NAME} 1",), ("the guard",), True),
        ((f"-D {NAME} 3",), ("the guard",), False),
        (("-D INPUT 1",), ("the guard",), False),
        (("-D INPUT 1", "-A" + JUMP[2:]), ("the guard",), False),
        ((f"-I {NAME} -j RETURN",), ("the guard",), False),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, tuple) else None,
)
def test_what_others_take_away_is_restored_with_the_lease_ended(
    dataplane: ClusterIP,
    wire: Wire,
    disturb: tuple[str, ...],
    restored: tuple[str, ...],
    is_noticed: bool,
) -> None:
    before = []

    async def suffer() -> None:
        await dataplane.open()
        await renew(dataplane)
        await own(dataplane, EVERYTHING)
        before.append(host.iptables("-S"))
        assert wire.accepted([FLOW])
        for arguments in disturb:
            host.iptables(arguments)
        if is_noticed:
            await asyncio.wait_for(dataplane.disturbed(), NOTICE_TIMEOUT_S)
        names = tuple(f"{thing} of {VIP}" for thing in restored)
        assert tuple(name for name in await dataplane.repair() if name in names) == names
        assert await dataplane.repair() == ()
        assert not wire.accepted([FLOW])
        with pytest.raises(DataplaneError, match="no armed timer"):
            await dataplane.promote()
        await renew(dataplane)
        assert wire.accepted([FLOW])

    asyncio.run(suffer())
    assert host.iptables("-S") == before[0]


def test_a_rule_by_hand_put_before_the_guard_gets_it_in_front(dataplane: ClusterIP) -> None:
    async def suffer() -> None:
        await dataplane.open()
        await asyncio.to_thread(host.iptables, BY_HAND)  # it shares what the first rule made
        assert await dataplane.repair() == (f"the guard of {VIP}",)

    asyncio.run(suffer())
    assert host.iptables("-S INPUT").splitlines()[1] == JUMP


@pytest.mark.usefixtures("space")
def test_times_of_a_shorter_lease_do_not_count_under_a_longer(service: Service, wire: Wire) -> None:
    async def change() -> None:
        first = ClusterIP(service, 3000)
        await first.open()
        await own(first, EVERYTHING)
        await renew(first)
        assert wire.accepted([FLOW])
        second = ClusterIP(service, 60_000)
        await second.open()
        assert guard_rules() == listed_guard(60)
        assert not wire.accepted([FLOW])
        await renew(second)
        assert wire.accepted([FLOW])

    asyncio.run(change())


def test_without_its_guard_a_dropped_node_holds_nothing_until_it_is_repaired(
    dataplane: ClusterIP,
) -> None:
    async def suffer() -> None:
        await dataplane.open()
        await renew(dataplane)
        await own(dataplane, frozenset({2, 3}))
        host.iptables(f"-F {NAME}")
        with pytest.raises(DataplaneError, match="the guard rules are gone"):
            await dataplane.arm()
        with pytest.raises(DataplaneError, match="the guard rules are gone"):
            await dataplane.commit(Commit.ACQUIRE)
        await dataplane.drop()
        assert host.in_force() == ""
        await dataplane.repair()
        assert host.in_force() == "2,3"

    asyncio.run(suffer())


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """As if an iptables program took its time."""
    with Path("/run/xtables.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_where_rules_cannot_be_restored_nothing_is_answered(dataplane: ClusterIP) -> None:
    async def suffer(disturb: str, left: Callable[[], object]) -> None:
        await dataplane.open()
        await own(dataplane, frozenset({2}))
        host.iptables(disturb)
        with locked():
            for step in (dataplane.repair, dataplane.open):
                with pytest.raises(DataplaneError, match="locked"):
                    await step()
            assert not await asyncio.to_thread(left)
        assert await dataplane.repair()

    asyncio.run(suffer(f"-F {NAME}", host.in_force))
    asyncio.run(suffer("-F", host.addresses))
    assert host.in_force() == "2"


@pytest.mark.usefixtures("space")
def test_leftovers_without_a_rule_are_removed(service: Service) -> None:
    asyncio.run(ClusterIP(service, ENDLESS_MS).open())
    host.iptables("-D INPUT 2")
    asyncio.run(clusterip.remove_leftovers(service.vip))
    assert host.iptables("-S").splitlines() == [
        "-P INPUT ACCEPT",
        "-P FORWARD ACCEPT",
        "-P OUTPUT ACCEPT",
    ]
    assert host.addresses() == []
    asyncio.run(clusterip.remove_leftovers(service.vip))


@pytest.mark.usefixtures("space")
def test_only_what_no_guard_holds_is_emptied_before_anything_is_known(service: Service) -> None:
    clusterip.empty_unguarded(service.vip)
    host.iptables(BY_HAND)
    clusterip.empty_unguarded(service.vip)
    assert host.in_force() == ""

    async def serve() -> None:
        dataplane = ClusterIP(service, ENDLESS_MS)
        await dataplane.open()
        await own(dataplane, frozenset({4}))

    asyncio.run(serve())
    clusterip.empty_unguarded(service.vip)
    assert host.in_force() == "4"


@pytest.mark.usefixtures("space")
def test_two_services_of_a_host_have_leases_of_their_own(service: Service) -> None:
    other = Service(
        IPv4Address("198.51.100.2"), "eth0", "03:bf:c6:33:64:02", 16, HashMode.SOURCE_IP_PORT, 1
    )

    async def serve() -> None:
        both = [ClusterIP(service, 2000), ClusterIP(other, 3000)]
        for one in both:
            await one.open()
            assert await one.repair() == ()
        await renew(both[0])
        for one in both:
            assert await one.repair() == ()
        assert guard.last_written(guard.mark(VIP, 0), VIP) is not None
        assert guard.last_written(guard.mark(other.vip, 0), other.vip) is None
        await both[0].close()
        assert await both[1].repair() == ()
        await both[1].close()

    asyncio.run(serve())
    assert lists() == []
