"""The port of the packet hash against the module itself: which bucket accepts which packet."""

from __future__ import annotations

import asyncio
import random
from ipaddress import IPv4Address

import pytest
from pyroute2 import IPRoute

from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashFamily, HashMode, Service
from maglev0.dataplane.clusterip.dataplane import ClusterIP
from tests.vm.guest.moves import ENDLESS_MS, own, renew
from tests.vm.guest.wire import CLUSTER_MAC, PROTOCOLS, VIP, Wire

FLOWS = 150


def random_flows(chance: random.Random) -> list[PacketFields]:
    def source() -> IPv4Address:
        return next(
            address
            for address in iter(lambda: IPv4Address(chance.randrange(1 << 32)), None)
            if address.is_global and not address.is_multicast
        )

    return [
        PacketFields(
            source(),
            chance.choice(PROTOCOLS),
            chance.randrange(1, 1 << 16),
            chance.randrange(1, 1 << 16),
        )
        for _ in range(FLOWS)
    ]


@pytest.mark.parametrize("mode", HashMode)
@pytest.mark.parametrize("total_nodes", [16, 5])
def test_the_bucket_that_accepts_is_the_one_that_the_port_computes(
    wire: Wire, mode: HashMode, total_nodes: int
) -> None:
    seed = random.randrange(1 << 32)
    flows = random_flows(random.Random(seed))
    computed = [
        PacketHash(HashFamily.CLUSTERIP, mode, seed, total_nodes).bucket(flow) for flow in flows
    ]
    dataplane = ClusterIP(Service(VIP, "eth0", CLUSTER_MAC, total_nodes, mode, seed), ENDLESS_MS)
    everything = frozenset(range(1, total_nodes + 1))

    async def bisect() -> list[int]:
        await dataplane.open()
        await renew(dataplane)
        assert wire.accepted(flows) == frozenset(), (
            f"accepted without a bucket in force, seed {seed}"
        )
        await own(dataplane, everything)
        assert wire.accepted(flows) == frozenset(range(FLOWS)), (
            f"refused with all buckets in force, seed {seed}"
        )
        seen = [1] * FLOWS
        for bit in range(total_nodes.bit_length()):
            await own(
                dataplane, frozenset(bucket for bucket in everything if (bucket - 1) >> bit & 1)
            )
            for index in wire.accepted(flows):
                seen[index] += 1 << bit
        await dataplane.close()
        return seen

    assert asyncio.run(bisect()) == computed, f"seed {seed}"
    assert len(set(computed)) == total_nodes, "the flows do not reach every bucket"


def test_in_no_state_is_a_packet_accepted_before_the_first_bucket_is_owned(wire: Wire) -> None:
    """The address up already, by hand.

    Then only the rule stands between the packets and the services.
    """
    flows = random_flows(random.Random(1))
    service = Service(VIP, "eth0", CLUSTER_MAC, 1, HashMode.SOURCE_IP, 0)
    with IPRoute() as netlink:
        netlink.addr(
            "add", index=netlink.link_lookup(ifname="eth0")[0], address=str(VIP), prefixlen=32
        )
    assert wire.accepted(flows) == frozenset(range(FLOWS)), (
        "without a rule the address answers for all"
    )
    dataplane = ClusterIP(service, ENDLESS_MS)

    async def open_and_own() -> None:
        await dataplane.open()
        assert wire.accepted(flows) == frozenset()
        await renew(dataplane)
        assert wire.accepted(flows) == frozenset()
        await own(dataplane, frozenset({1}))
        assert wire.accepted(flows) == frozenset(range(FLOWS))

    asyncio.run(open_and_own())
