"""What `maglev0 explain` says of a kernel with CLUSTERIP, against what that kernel does with real
packets.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashFamily, HashMode, Service
from maglev0.core.settings import Settings
from maglev0.dataplane.clusterip.dataplane import ClusterIP
from maglev0.dataplane.verdict import ServingKernel
from maglev0.errors import DataplaneError
from maglev0.operator.explain import command as explain
from tests.kernel import explain_flows
from tests.vm.guest import space as host
from tests.vm.guest.explain_flows import run
from tests.vm.guest.moves import own, renew
from tests.vm.guest.space import BY_HAND
from tests.vm.guest.wire import UDP, VIP, Wire

FLOWS = 300
LEASE_S = 2
MAC = "01:00:5e:00:00:14"
SETTINGS = Settings(5, HashMode.SOURCE_IP, 0, HashFamily.CLUSTERIP, MAC, 1000 * LEASE_S)
EVERYTHING = frozenset(range(1, 6))
FLOW = PacketFields(IPv4Address("192.0.2.77"), UDP, 1234, 4321)
BUCKET = PacketHash(HashFamily.CLUSTERIP, HashMode.SOURCE_IP, 0, 5).bucket(FLOW)


def asked(settings: Settings = SETTINGS) -> ServingKernel:
    return asyncio.run(explain.read_kernel(settings, VIP))


def test_it_agrees_with_the_kernel_on_random_flows_in_random_states(wire: Wire) -> None:
    seed = random.randrange(1 << 32)
    tallies = run(FLOWS, seed, wire)
    print(explain_flows.report(HashFamily.CLUSTERIP, tallies))  # noqa: T201  shown by pytest -rP
    assert [line for tally in tallies.values() for line in tally.wrong] == [], f"seed {seed}"
    assert sum(tally.agreed for tally in tallies.values()) == FLOWS
    assert any("target: filter INPUT: CLUSTERIP" in tally.rules for tally in tallies.values())


def test_a_lease_that_runs_out_is_told_when_it_does(wire: Wire) -> None:
    """What is said right before a packet and right after it is what happens to the packet."""
    dataplane = ClusterIP(service(), SETTINGS.lease_ms)

    async def serve() -> None:
        await dataplane.open()
        await own(dataplane, EVERYTHING)
        await renew(dataplane)

    asyncio.run(serve())
    until = time.monotonic() + LEASE_S + 1
    said = [asked().new_flow(BUCKET).accepts]
    seen = []
    while time.monotonic() < until:
        seen.append(bool(wire.accepted([FLOW])))
        said.append(asked().new_flow(BUCKET).accepts)
    for number, accepted in enumerate(seen):
        # One answer further away, too: the emulated machine's ticks come late where processors are
        # busy.
        near = said[max(0, number - 1) : number + 3]
        assert accepted in near, f"lease: {said}, {seen}"
    assert seen == sorted(seen, reverse=True)
    assert (seen[0], seen[-1]) == (True, False)


def service(interface: str = "eth0") -> Service:
    return SETTINGS.service(VIP, interface)


def test_a_rule_by_hand_is_judged_without_a_guard(wire: Wire) -> None:
    host.iptables(BY_HAND)
    host.add_address()
    kernel = asked()
    accepting = {bucket for bucket in EVERYTHING if kernel.new_flow(bucket).accepts}
    assert accepting == {1}
    assert bool(wire.accepted([FLOW])) is (BUCKET in accepting)
    assert kernel.new_flow(1).steps[1].rule == "no guard before the CLUSTERIP rule"


@pytest.mark.usefixtures("space")
def test_of_other_rules_nothing_is_said() -> None:
    with pytest.raises(DataplaneError, match="there is no CLUSTERIP rule for"):
        asked()
    asyncio.run(ClusterIP(service(), SETTINGS.lease_ms).open())
    asked()
    with pytest.raises(DataplaneError, match="is not for the cluster's settings"):
        asked(replace(SETTINGS, hash_seed=1))
    host.iptables(f"-D maglev0-{VIP} 3")
    with pytest.raises(DataplaneError, match="another program has changed the guard"):
        asked()
