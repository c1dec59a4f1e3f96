"""What `maglev0 explain` says of this machine's kernel, and what the kernel does with packets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from maglev0.core.packet_hash import PacketFields
from maglev0.core.service import HashFamily, HashMode, Xdp
from maglev0.core.settings import Settings
from maglev0.dataplane.conntrack import lookup
from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.dataplane.verdict import PacketVerdict, ServingKernel, Tracked
from maglev0.dataplane.xdp import pins
from maglev0.dataplane.xdp.libbpf import Bpf
from maglev0.errors import DataplaneError
from maglev0.operator.explain import command as explain
from tests.kernel import explain_flows
from tests.kernel.conftest import Host
from tests.kernel.explain_flows import Cluster, Injector
from tests.kernel.nft import LEASE_MS, SERVICE, TABLE, hand_over, opened, renew
from tests.kernel.wire import ACK, PORT, PSH, SYN, Client, Wire, wired
from tests.kernel.xdp import SOURCE, run
from tests.support.one_host import INTERFACE

pytestmark = pytest.mark.kernel

FLOWS = 1500
OWNED, LOST, FOREIGN = 1, 2, 3
SETTINGS = Settings(
    SERVICE.total_nodes,
    SERVICE.hash_mode,
    SERVICE.hash_seed,
    HashFamily.NFTABLES,
    SERVICE.cluster_mac,
    LEASE_MS,
)


async def asked(settings: Settings = SETTINGS) -> ServingKernel:
    return await explain.read_kernel(settings, SERVICE.vip)


def test_it_agrees_with_the_kernel_on_random_flows_in_random_states() -> None:
    seed = explain_flows.chance()
    tallies = explain_flows.run(FLOWS, seed, sizes=(1, 4_099))
    print(explain_flows.report(HashFamily.NFTABLES, tallies))  # noqa: T201  shown by pytest -rP
    assert [line for tally in tallies.values() for line in tally.wrong] == [], f"seed {seed}"
    assert sum(tally.agreed for tally in tallies.values()) == FLOWS
    rules = set().union(*(tally.rules for tally in tallies.values()))
    assert {rule.partition(":")[0] for rule in rules} == {"xdp", "early", "second"}
    assert any(tally.accepted for tally in tallies.values())


def test_a_connection_in_a_bucket_that_moved_away_is_told_apart_from_a_new_flow(host: Host) -> None:
    async def run(wire: Wire) -> None:
        async with opened() as dataplane:
            await hand_over(dataplane, {OWNED, LOST})
            await renew(dataplane)
            holder, stranger, half_open = wire.client(LOST), wire.client(LOST), wire.client(LOST)
            holder.connect()
            assert half_open.ask(SYN)
            await hand_over(dataplane, (), {LOST})
            kernel = await asked()
            assert kernel.new_flow(LOST).accepts is bool(wire.client(LOST).ask(SYN)) is False
            assert connection(kernel, holder).accepts is holder.talks() is True
            assert connection(kernel, half_open).accepts is half_open.talks() is True
            assert (
                connection(kernel, stranger).accepts
                is bool(stranger.ask(PSH | ACK, b"data"))
                is False
            )
            await dataplane.drop()
            assert connection(await asked(), holder).accepts is holder.talks() is True
            await dataplane.unpin(frozenset({LOST}))
            judged = connection(await asked(), holder)
            assert (
                (judged.accepts, judged.decisive.stage)
                == (holder.talks(), "early")
                == (False, "early")
            )

    with wired(host, SERVICE) as wire:
        asyncio.run(run(wire))


def connection(kernel: ServingKernel, client: Client) -> PacketVerdict:
    return kernel.established(client.bucket, known(client))


def known(client: Client) -> Tracked | None:
    return lookup.look_up(SERVICE.vip, PacketFields(client.address, 6, client.port, PORT))


def test_connection_tracking_is_asked_for_exactly_the_flow(host: Host) -> None:
    async def run(wire: Wire) -> None:
        async with opened() as dataplane:
            await hand_over(dataplane, {OWNED})
            await renew(dataplane)
            client = wire.client(OWNED)
            assert known(client) is None
            client.connect()
            assert known(client) == Tracked("ESTABLISHED", established=True)
            for other in (
                replace(client, port=client.port + 1),
                replace(client, address=client.address + 1),
            ):
                assert known(other) is None
            wire.listener.accept()[0].close()
            assert known(client) == Tracked("FIN_WAIT", established=True)
            # The host's answers are dropped before connection tracking sees them.
            host.run(
                "nft",
                "add table inet mute;"
                " add chain inet mute out { type filter hook output priority -300; }",
            )
            host.run("nft", "add rule inet mute out ip saddr", str(SERVICE.vip), "drop")
            unanswered = wire.client(OWNED)
            unanswered.ask(SYN)
            assert known(unanswered) == Tracked("SYN_SENT", established=False)

    with wired(host, SERVICE) as wire:
        asyncio.run(run(wire))


Spoil = Callable[[Host], object]
SPOILT: dict[str, tuple[Spoil, str]] = {
    "no table": (
        lambda host: host.run("nft", "flush", "ruleset"),
        f"there is no nftables table inet {TABLE} in this network namespace",
    ),
    "a rule gone": (
        lambda host: host.run("nft", "flush", "chain", "inet", TABLE, "judge_tcp"),
        "another program has changed the rules",
    ),
    "a rule more": (
        lambda host: host.run("nft", "insert", "rule", "inet", TABLE, "second", "accept"),
        "another program has changed the rules",
    ),
    "switched off": (
        lambda host: host.run("nft", f"add table inet {TABLE} {{ flags dormant; }}"),
        "another program has changed the rules",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_of_rules_that_others_changed_nothing_is_said(host: Host, name: str) -> None:
    spoil, words = SPOILT[name]

    async def run() -> None:
        async with opened(guard=False):
            await asked()
            spoil(host)
            with pytest.raises(DataplaneError, match=words):
                await asked()

    asyncio.run(run())


def test_of_rules_for_other_settings_nothing_is_said(host: Host) -> None:  # noqa: ARG001  the namespace
    async def run() -> None:
        async with opened():
            with pytest.raises(
                DataplaneError, match="not this version's for the cluster's settings"
            ):
                await asked(replace(SETTINGS, hash_seed=SERVICE.hash_seed + 1))

    asyncio.run(run())


def test_rules_that_count_what_they_refuse_judge_alike(host: Host) -> None:  # noqa: ARG001
    async def run() -> None:
        dataplane = Nftables(SERVICE, LEASE_MS, counted=True)
        await dataplane.open()
        try:
            await hand_over(dataplane, {OWNED})
            await renew(dataplane)
            kernel = await asked()
            assert [kernel.new_flow(bucket).accepts for bucket in (OWNED, FOREIGN)] == [True, False]
        finally:
            await dataplane.close()

    asyncio.run(run())


def test_a_link_that_is_down_and_an_address_that_is_gone_refuse_everything(host: Host) -> None:
    async def run() -> None:
        async with opened() as dataplane:
            await hand_over(dataplane, {OWNED})
            await renew(dataplane)
            assert (await asked()).new_flow(OWNED).accepts
            host.run("ip", "address", "del", f"{SERVICE.vip}/32", "dev", INTERFACE)
            assert (await asked()).new_flow(OWNED).decisive.rule == f"address {SERVICE.vip}"
            host.run("ip", "link", "set", "dev", INTERFACE, "down")
            assert (await asked()).new_flow(OWNED).decisive.rule == f"link {INTERFACE}"

    asyncio.run(run())


@pytest.mark.parametrize("wish", [Xdp.NATIVE, Xdp.GENERIC])
def test_xdp_drops_as_many_packets_as_are_said_to_be_dropped_by_it(wish: Xdp) -> None:
    """The counter of the stage shows it; a lost packet does not."""

    async def scenario(injector: Injector) -> None:
        cluster = Cluster(
            explain_flows.settings(HashFamily.NFTABLES, HashMode.SOURCE_IP_PORT, 251, rng), rng
        )
        async with explain_flows.served(cluster.settings, wish) as dataplane:
            await hand_over(dataplane, range(1, 100))
            await renew(dataplane)
            kernel = await explain.read_kernel(cluster.settings, SERVICE.vip)
            flows = cluster.some_flows(200)
            injector.accepted(flows)
            decisive = [kernel.new_flow(cluster.bucket(flow)).decisive for flow in flows]
            counters = await dataplane.counters()
            assert counters is not None
            assert counters.xdp_refused is not None
            assert (
                counters.xdp_refused.packets
                == sum(step.rule == f"XDP program on {INTERFACE}, {wish}" for step in decisive)
                > 0
            )

    rng = random.Random(explain_flows.chance())
    with explain_flows.injector() as injector:
        asyncio.run(scenario(injector))


def test_what_a_foreign_xdp_program_drops_is_unknown(bpf: Path) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            await hand_over(dataplane, {OWNED})
            await renew(dataplane)
            (bpf / "theirs").mkdir()
            Bpf().install(
                (SOURCE.parent / "early.bpf.o").read_bytes(),
                pins.PROGRAM,
                pins.MAPS,
                bpf / "theirs",
            )
            run(
                "ip",
                "link",
                "set",
                "dev",
                INTERFACE,
                "xdp",
                "pinned",
                str(bpf / "theirs" / pins.PROGRAM),
            )
            kernel = await asked()
            assert kernel.new_flow(OWNED).accepts is None
            assert kernel.new_flow(FOREIGN).accepts is False

    asyncio.run(scenario())
