"""`maglev0 explain` names the same rule as the kernel's own packet tracing."""

from __future__ import annotations

import asyncio
import random
import re
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from maglev0.core.packet_hash import PacketFields
from maglev0.core.service import HashFamily, HashMode, Xdp
from maglev0.core.transition import Move
from maglev0.dataplane.nftables import ruleset
from maglev0.operator.explain import command as explain
from maglev0.protocol.ports.gate import Commit
from tests.kernel import explain_flows
from tests.kernel.explain_flows import Cluster, Injector
from tests.kernel.nft import hand_over, renew
from tests.support.one_host import ADDRESS, INTERFACE
from tests.vm.guest.wire import PROTOCOLS, VIP

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

TABLE = ruleset.table_name(VIP)
FLOWS = 60  # the chance that none is in one of four buckets of sixteen is one in thirty million
KNOCK_S = 0.05
_PACKET = re.compile(rf"trace id (\w+) .* packet: .* ip daddr {VIP} .* ip id (\d+) ")
_RULE = re.compile(
    rf"trace id (\w+) inet {re.escape(TABLE)} (\w+) rule .*\b(accept|drop)\b.*"
    r"\(verdict (accept|drop)\)"
)


class Tracer:
    """The kernel's trace of each packet through the rules."""

    def __init__(self, monitor: subprocess.Popen[str], injector: Injector) -> None:
        assert monitor.stdout is not None
        self._lines = monitor.stdout
        self._injector = injector

    def judged(self, flows: list[PacketFields]) -> dict[int, str]:
        """The rule with the final verdict on each flow, as "chain verdict", by the flow's index."""
        self._injector.accepted(flows)
        numbers: dict[str, int] = {}
        found: dict[int, str] = {}
        for line in self._until_markers(len(flows)):
            if packet := _PACKET.match(line):
                numbers[packet[1]] = int(packet[2])
            elif rule := _RULE.match(line):
                found[numbers[rule[1]]] = f"{rule[2]} {rule[4]}"
        return found

    def _until_markers(self, marker: int) -> Iterator[str]:
        """Send one marker of each protocol after the flows; no rule of the daemon drops them."""
        left = len(PROTOCOLS)
        while left:
            line = self._lines.readline()
            left -= (
                f"ip daddr {ADDRESS} " in line
                and f" ip id {marker} " in line
                and f"{TABLE} second packet:" in line
            )
            yield line


@contextmanager
def tracing(injector: Injector) -> Iterator[Tracer]:
    """Make the kernel trace packets for the VIP, and the markers."""
    chain = (
        f'type filter hook ingress device "{INTERFACE}" priority -500\n'
        f"ip daddr {{ {VIP}, {ADDRESS} }} meta nftrace set 1\n"
    )
    subprocess.run(
        ["nft", "-f", "-"],
        input=f"table netdev trace {{ chain here {{ {chain} }}\n}}",
        text=True,
        check=True,
    )
    with subprocess.Popen(
        ["stdbuf", "-oL", "nft", "monitor", "trace"], stdout=subprocess.PIPE, text=True
    ) as monitor:
        try:
            _wait_until_it_listens(monitor, injector)
            yield Tracer(monitor, injector)
        finally:
            monitor.terminate()


def _wait_until_it_listens(monitor: subprocess.Popen[str], injector: Injector) -> None:
    assert monitor.stdout is not None
    while not select.select([monitor.stdout], [], [], KNOCK_S)[0]:
        injector.accepted([])


@pytest.mark.parametrize("mode", HashMode)
def test_the_rule_that_it_names_is_the_one_that_decided(mode: HashMode) -> None:
    seed = explain_flows.chance()
    rng = random.Random(seed)
    cluster = Cluster(explain_flows.settings(HashFamily.NFTABLES, mode, 16, rng), rng)
    rules: set[str] = set()

    async def compare(tracer: Tracer) -> None:
        kernel = await explain.read_kernel(cluster.settings, VIP)
        flows = cluster.some_flows(FLOWS)
        named = {
            index: kernel.new_flow(cluster.bucket(flow)).decisive.rule.removeprefix(
                f"inet {TABLE} "
            )
            for index, flow in enumerate(flows)
        }
        said = {
            index: f"{rule.partition(':')[0]} {rule.rpartition(' ')[2]}"
            for index, rule in named.items()
        }
        assert tracer.judged(flows) == said, f"seed {seed}"
        rules.update(said.values())

    async def run(injector: Injector) -> None:
        async with explain_flows.served(cluster.settings, Xdp.OFF) as dataplane:
            await hand_over(dataplane, range(1, 9))
            with tracing(injector) as tracer:
                await compare(tracer)
                for gains, losses in (
                    ((9, 10, 11, 12), (1, 2, 3, 4)),
                    ((1, 2, 3, 4), (5, 6, 7, 8)),
                ):
                    await renew(dataplane)
                    await dataplane.stage(Move(frozenset(gains), frozenset(losses)))
                    await compare(tracer)
                    await dataplane.commit(Commit.RELEASE)
                    await compare(tracer)
                    await dataplane.commit(Commit.ACQUIRE)
                    await compare(tracer)
                    await dataplane.drop()
                    await compare(tracer)

    with explain_flows.injector() as injector:
        asyncio.run(run(injector))
    assert rules >= {
        "early drop",
        "new_flow drop",
        "lease_a drop",
        "lease_b drop",
        "owned_both drop",
        "owned_b drop",
        "owned_a accept",
        "owned_b accept",
    }
