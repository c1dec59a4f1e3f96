"""`maglev0 explain` and the kernel on real packets of random flows, in every state of a kernel.

Run `python -m tests.kernel.explain_flows [COUNT [SEED]]` as root. CLUSTERIP is compared in the
virtual machine of tests/vm, by the same functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

import pytest

from maglev0.core.packet_hash import PacketFields
from maglev0.core.service import HashFamily, HashMode, Xdp
from maglev0.core.settings import Settings
from maglev0.core.transition import Move
from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.dataplane.verdict import PacketVerdict, ServingKernel
from maglev0.lab.testbed import namespace
from maglev0.operator.explain import command as explain
from maglev0.operator.explain.command import AskedFlow
from maglev0.protocol.ports.dataplane import Dataplane
from maglev0.protocol.ports.gate import Commit
from tests.support.one_host import ADDRESS, CABLE, INTERFACE, OneHost, one_host
from tests.support.patience import PATIENCE_S
from tests.vm.guest.wire import (
    CLUSTER_MAC,
    PROTOCOLS,
    RECEIVE_BYTES,
    SO_RCVBUFFORCE,
    TCP,
    UDP,
    VIP,
    frame,
)

DEFAULTS = ("10000", "1")
SIZES = (1, 2, 5, 16, 251, 65_537)
FLOWS_IN_A_STATE = 20
LEASE_MS = 60_000
STEPS_BETWEEN = 4
SHORT_LEASE_MS = 30

Accepted = Callable[[list[PacketFields]], frozenset[int]]


@dataclass
class Tally:
    """Counts of flows compared and accepted, the rules that decided, and the contradictions."""

    flows: int = 0
    agreed: int = 0
    accepted: int = 0
    rules: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def note(self, flow: PacketFields, judged: PacketVerdict, *, accepted: bool) -> None:
        self.flows += 1
        self.accepted += accepted
        self.agreed += judged.accepts is accepted
        self.rules.add(f"{judged.decisive.stage}: {judged.decisive.rule}")
        if judged.accepts is not accepted:
            self.wrong.append(
                f"{flow}: the kernel {'accepted' if accepted else 'dropped'} it;"
                f" explain: {judged.decisive}"
            )


class Injector:
    """Sends frames to the host, and reports which of them a service would receive."""

    def __init__(self, host: OneHost) -> None:
        with namespace.inside(host.network._switch):
            self._far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._far.bind((CABLE, 0))
        # A raw socket gets every packet that the kernel accepts, even if no program listens.
        self._near = {
            protocol: socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
            for protocol in PROTOCOLS
        }
        for near in self._near.values():
            near.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
            near.settimeout(PATIENCE_S)

    def close(self) -> None:
        for sock in (self._far, *self._near.values()):
            sock.close()

    def accepted(self, flows: list[PacketFields]) -> frozenset[int]:
        for index, flow in enumerate(flows):
            self._far.send(frame(index, flow, VIP))
        # To the host's own address, which no rule filters: it is sent last and arrives last.
        for protocol in PROTOCOLS:
            self._far.send(
                frame(len(flows), PacketFields(IPv4Address("192.0.2.2"), protocol, 1, 1), ADDRESS)
            )
        return frozenset(
            index for near in self._near.values() for index in self._until_marker(near, len(flows))
        )

    def _until_marker(self, near: socket.socket, marker: int) -> Iterator[int]:
        while (packet := near.recv(2048))[12:16] != bytes((192, 0, 2, 2)):
            if packet[16:20] == VIP.packed:
                yield int.from_bytes(packet[4:6], "big")
        assert int.from_bytes(packet[4:6], "big") == marker


@contextmanager
def injector() -> Iterator[Injector]:
    """A host of its own that accepts packets from any source.

    It uses one processor, so that no frame overtakes another.
    """
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        with one_host() as host, pytest.MonkeyPatch.context() as environment:
            for scope in ("all", INTERFACE):
                Path(f"/proc/sys/net/ipv4/conf/{scope}/rp_filter").write_text("0")
            environment.setenv("MAGLEV0_BPFFS", str(host.mount_bpf()))
            with contextlib.closing(Injector(host)) as made:
                yield made
    finally:
        os.sched_setaffinity(0, processors)


class Cluster(NamedTuple):
    """Settings and random choices of a comparison."""

    settings: Settings
    rng: random.Random

    def some_buckets(self) -> frozenset[int]:
        total = self.settings.total_nodes
        return frozenset(self.rng.sample(range(1, total + 1), self.rng.randint(0, total)))

    def bucket(self, flow: PacketFields) -> int:
        return explain.bucket_of(
            AskedFlow(flow.source, flow.source_port, flow.dest_port, flow.protocol), self.settings
        )

    def some_flows(self, count: int) -> list[PacketFields]:
        def source() -> IPv4Address:
            addresses = iter(lambda: IPv4Address(self.rng.randrange(1 << 32)), None)
            return next(
                address for address in addresses if address.is_global and not address.is_multicast
            )

        protocols = (*PROTOCOLS, TCP, TCP, UDP)
        return [
            PacketFields(
                source(),
                self.rng.choice(protocols),
                self.rng.randrange(1, 1 << 16),
                self.rng.randrange(1, 1 << 16),
            )
            for _ in range(count)
        ]


Turn = Callable[[Dataplane, Cluster], Awaitable[None]]


async def hand_over(dataplane: Dataplane, cluster: Cluster) -> None:
    await load(dataplane, cluster)
    for phase in Commit:
        await dataplane.commit(phase)


async def load(dataplane: Dataplane, cluster: Cluster) -> None:
    held, wanted = await dataplane.owned(), cluster.some_buckets()
    await dataplane.stage(Move(wanted - held, held - wanted))


async def release(dataplane: Dataplane, cluster: Cluster) -> None:
    await load(dataplane, cluster)
    await dataplane.commit(Commit.RELEASE)


async def forget(dataplane: Dataplane, cluster: Cluster) -> None:
    await dataplane.unpin(cluster.some_buckets())


async def renew(dataplane: Dataplane, _cluster: Cluster) -> None:
    await dataplane.arm()
    await dataplane.promote()


async def arm(dataplane: Dataplane, _cluster: Cluster) -> None:
    await dataplane.arm()


async def drop(dataplane: Dataplane, _cluster: Cluster) -> None:
    await dataplane.drop()


TURNS: tuple[Turn, ...] = (hand_over, load, release, forget, renew, renew, renew, renew, arm, drop)


async def judge(
    dataplane: Dataplane, cluster: Cluster, accepted: Accepted, tally: Tally, flows: int
) -> None:
    """Move the dataplane through random states until that many flows are compared."""
    done = 0
    await hand_over(dataplane, cluster)
    await renew(dataplane, cluster)
    while done < flows:
        for turn in cluster.rng.choices(TURNS, k=cluster.rng.randint(1, STEPS_BETWEEN)):
            await turn(dataplane, cluster)
        count = min(FLOWS_IN_A_STATE, flows - done)
        compare(await explain.read_kernel(cluster.settings, VIP), cluster, accepted, tally, count)
        done += count


def compare(
    kernel: ServingKernel, cluster: Cluster, accepted: Accepted, tally: Tally, count: int
) -> None:
    flows = cluster.some_flows(count)
    arrived = accepted(flows)
    for index, flow in enumerate(flows):
        tally.note(flow, kernel.new_flow(cluster.bucket(flow)), accepted=index in arrived)


def settings(family: HashFamily, mode: HashMode, total_nodes: int, rng: random.Random) -> Settings:
    return Settings(total_nodes, mode, rng.randrange(1 << 32), family, CLUSTER_MAC, LEASE_MS)


@asynccontextmanager
async def served(agreed: Settings, xdp: Xdp) -> AsyncIterator[Nftables]:
    dataplane = Nftables(agreed.service(VIP, INTERFACE), agreed.lease_ms, xdp=xdp)
    try:
        await dataplane.open()
        yield dataplane
    finally:
        await dataplane.close()


def chance() -> int:
    """A random seed."""
    return random.SystemRandom().randrange(1 << 32)


async def on_nftables(
    mode: HashMode, rng: random.Random, accepted: Accepted, flows: int, sizes: tuple[int, ...]
) -> Tally:
    """Compare for tables of these sizes, with and without XDP, then with a lease that expires."""
    tally = Tally()
    ways = [(size, xdp) for size in sizes for xdp in (Xdp.OFF, Xdp.GENERIC, Xdp.NATIVE)]
    share = flows // (len(ways) + 1)
    for size, xdp in ways:
        cluster = Cluster(settings(HashFamily.NFTABLES, mode, size, rng), rng)
        async with served(cluster.settings, xdp) as dataplane:
            await judge(dataplane, cluster, accepted, tally, share)
    cluster = Cluster(
        replace(settings(HashFamily.NFTABLES, mode, 5, rng), lease_ms=SHORT_LEASE_MS), rng
    )
    async with served(cluster.settings, Xdp.OFF) as dataplane:
        await hand_over(dataplane, cluster)
        await renew(dataplane, cluster)
        await asyncio.sleep(SHORT_LEASE_MS / 1000)  # the kernel's timer is what the test is about
        compare(
            await explain.read_kernel(cluster.settings, VIP),
            cluster,
            accepted,
            tally,
            flows - tally.flows,
        )
    return tally


def shares(flows: int) -> dict[HashMode, int]:
    """The number of flows for each hash mode, in equal parts."""
    modes = tuple(HashMode)
    return {
        mode: flows * (turn + 1) // len(modes) - flows * turn // len(modes)
        for turn, mode in enumerate(modes)
    }


def run(flows: int, seed: int, sizes: tuple[int, ...] = SIZES) -> dict[HashMode, Tally]:
    """Compare that many flows on nftables."""
    with injector() as made:
        return {
            mode: asyncio.run(
                on_nftables(mode, random.Random(f"{seed} {mode}"), made.accepted, share, sizes)
            )
            for mode, share in shares(flows).items()
        }


def report(dataplane: HashFamily, tallies: dict[HashMode, Tally]) -> str:
    lines = [
        f"{dataplane:<10} {mode:<30} {tally.agreed:>6,} of {tally.flows:>6,} agree;"
        f" {tally.accepted:,} accepted, {len(tally.rules)} rules"
        for mode, tally in tallies.items()
    ]
    wrong = [line for tally in tallies.values() for line in tally.wrong[:3]]
    total, agreed = (
        sum(getattr(tally, name) for tally in tallies.values()) for name in ("flows", "agreed")
    )
    return "\n".join(
        [*lines, f"{dataplane:<10} {'all':<30} {agreed:>6,} of {total:>6,} agree", *wrong]
    )


def main() -> int:
    """Print the agreements; returns 1 if anything disagrees."""
    count, seed = (int(word) for word in [*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :]])
    tallies = run(count, seed)
    sys.stdout.write(f"seed {seed}\n{report(HashFamily.NFTABLES, tallies)}\n")
    return 1 if any(tally.wrong for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
