"""What a packet costs, refused and accepted, by everything that can refuse it.

`python -m tests.bench.packets`, as root.

Packets come from a generator in the kernel, into the receive path of one end of a veth in a
namespace of its own, on one processor. All ways are measured in one run, several times in turn, so
that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import asyncio
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashFamily, HashMode, Service, Xdp
from maglev0.core.transition import Move
from maglev0.dataplane import select
from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.errors import MaglevError, UnavailableError
from maglev0.protocol.ports.dataplane import Dataplane
from maglev0.protocol.ports.gate import Commit
from tests.bench.generator import PORT, SOURCES, Generator, frame
from tests.bench.sheet import Sheet, machine, publish
from tests.support.one_host import INTERFACE, one_host

SEED = 7
SERVICE = Service(
    IPv4Address("198.51.100.1"), INTERFACE, "03:bf:c6:33:64:01", 65_537, HashMode.SOURCE_IP, SEED
)
CLUSTERIP_SERVICE = Service(
    SERVICE.vip, INTERFACE, SERVICE.cluster_mac, 16, HashMode.SOURCE_IP, SEED
)
OWNERS = 4  # one fourth of the packets would be ours
LEASE_MS = 3_600_000
ROUNDS, SAMPLES, PACKETS = 5, 5, 200_000
FLOOR, XT_CLUSTER, NFTABLES, NATIVE = (
    "iptables raw DROP",
    "xt_cluster",
    "nftables",
    "nftables behind native XDP",
)
COLUMNS = (
    "way",
    "refused ns",
    "from",
    "to",
    "less generator",
    "of the floor",
    "accepted ns",
    "from ",
    "to ",
)

Sources = list[IPv4Address]


@dataclass
class Way:
    """One way to refuse: the bench enters it, and knows by `hashing` and `ours` which packets it
    refuses; either kind may not exist.
    """

    name: str
    entered: Callable[[Generator], AbstractAsyncContextManager[None]]
    hashing: PacketHash | None = None
    refuses: bool = True
    accepts: bool = True
    refused_ns: list[float] = field(default_factory=list)
    accepted_ns: list[float] = field(default_factory=list)

    def sources(self, *, ours: bool) -> Sources:
        """Sources whose packets are ours, or others'."""
        rng = random.Random(SEED)
        found: Sources = []
        while len(found) < SOURCES:
            source = IPv4Address(
                rng.randrange(int(IPv4Address("11.0.0.0")), int(IPv4Address("126.0.0.0")))
            )
            if (
                self.hashing is None
                or (
                    self.hashing.bucket(PacketFields(source, socket.IPPROTO_UDP))
                    <= self.hashing.total_nodes // OWNERS
                )
                == ours
            ):
                found.append(source)
        return found


def command(*words: str) -> None:
    """Run a program that changes this namespace."""
    subprocess.run(words, check=True, capture_output=True)


@contextmanager
def address() -> Iterator[None]:
    """The VIP, put up by hand."""
    command("ip", "address", "add", f"{SERVICE.vip}/32", "dev", INTERFACE)
    try:
        yield
    finally:
        command("ip", "address", "del", f"{SERVICE.vip}/32", "dev", INTERFACE)


@asynccontextmanager
async def nothing(_generator: Generator) -> AsyncIterator[None]:
    """No filter at all, not even connection tracking."""
    with address():
        yield


@asynccontextmanager
async def iptables(*rules: str) -> AsyncIterator[None]:
    """Rules of legacy iptables, which are what is documented for xt_cluster."""
    with address():
        for rule in rules:
            command("iptables-legacy", *rule.split())
        try:
            yield
        finally:
            for table in ("raw", "mangle"):
                command("iptables-legacy", "-t", table, "-F")


def raw_drop(_generator: Generator) -> AbstractAsyncContextManager[None]:
    """The cheapest rule there is, behind the kernel's own work for every packet."""
    return iptables(f"-t raw -A PREROUTING -d {SERVICE.vip} -j DROP")


def xt_cluster(_generator: Generator) -> AbstractAsyncContextManager[None]:
    """The recipe of iptables-extensions(8)."""
    match = (
        f"-m cluster --cluster-total-nodes {OWNERS} --cluster-local-node 1 "
        f"--cluster-hash-seed {SEED}"
    )
    return iptables(
        f"-t mangle -A PREROUTING -i {INTERFACE} {match} -j MARK --set-mark 0xffff",
        f"-t mangle -A PREROUTING -i {INTERFACE} -m mark ! --mark 0xffff -j DROP",
    )


@asynccontextmanager
async def serving(dataplane: Dataplane, total_nodes: int) -> AsyncIterator[None]:
    """One of our dataplanes, with a lease and a fourth of the buckets in force."""
    await dataplane.open()
    try:
        await dataplane.stage(Move(frozenset(range(1, total_nodes // OWNERS + 1)), frozenset()))
        await dataplane.commit(Commit.RELEASE)
        await dataplane.commit(Commit.ACQUIRE)
        await dataplane.arm()
        await dataplane.promote()
        yield
    finally:
        await dataplane.close()


def attached() -> Path:
    """The program that a driver would run before the stack.

    What the generator makes is beyond the driver, so it calls the program itself.
    """
    return next(Path(os.environ["MAGLEV0_BPFFS"]).glob("maglev0/*_*"))


def nftables(xdp: Xdp) -> Callable[[Generator], AbstractAsyncContextManager[None]]:
    """Our rules, alone or behind XDP."""

    @asynccontextmanager
    async def entered(generator: Generator) -> AsyncIterator[None]:
        async with serving(Nftables(SERVICE, LEASE_MS, xdp=xdp), SERVICE.total_nodes):
            if xdp is Xdp.NATIVE:
                generator.through(attached())
            yield

    return entered


def clusterip(_generator: Generator) -> AbstractAsyncContextManager[None]:
    """The CLUSTERIP target, as our dataplane for it sets it up."""
    dataplane = select.make(
        HashFamily.CLUSTERIP, CLUSTERIP_SERVICE, LEASE_MS, Xdp.OFF, dry_run=False
    )
    return serving(dataplane, CLUSTERIP_SERVICE.total_nodes)


def ways() -> list[Way]:
    """All that this kernel has."""
    ours = PacketHash(HashFamily.NFTABLES, HashMode.SOURCE_IP, SEED, SERVICE.total_nodes)
    found = [
        Way("no filter", nothing, refuses=False),
        Way(FLOOR, raw_drop, accepts=False),
        Way(XT_CLUSTER, xt_cluster, ours._replace(total_nodes=OWNERS)),
        Way(NFTABLES, nftables(Xdp.OFF), ours),
        Way("nftables behind generic XDP", nftables(Xdp.GENERIC), ours),
        Way(NATIVE, nftables(Xdp.NATIVE), ours),
    ]
    try:
        select.runnable(SERVICE.vip, HashFamily.CLUSTERIP)
    except UnavailableError:
        return found
    hashing = PacketHash(
        HashFamily.CLUSTERIP, HashMode.SOURCE_IP, SEED, CLUSTERIP_SERVICE.total_nodes
    )
    return [*found, Way("CLUSTERIP", clusterip, hashing)]


def listener() -> socket.socket:
    """Somebody for accepted packets to reach, who never reads.

    Most find the buffer full, which is the end of their way.
    """
    reached = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    reached.bind((str(SERVICE.vip), PORT))
    return reached


async def measure(way: Way, generator: Callable[[], Generator], samples: int, packets: int) -> None:
    """Take the samples of one round."""
    sending = generator()
    try:
        async with way.entered(sending):
            with listener():
                for ours, wanted, times_ns in (
                    (False, way.refuses, way.refused_ns),
                    (True, way.accepts, way.accepted_ns),
                ):
                    if wanted:
                        sending.send_from(way.sources(ours=ours))
                        sending.ns_per_packet(
                            packets
                        )  # flows of accepted packets are known after this
                        times_ns.extend(
                            sending.ns_per_packet(packets) for _sample in range(samples)
                        )
    finally:
        sending.close()


def run(rounds: int = ROUNDS, samples: int = SAMPLES, packets: int = PACKETS) -> Sheet:
    """Measure all ways in a namespace of our own."""
    with one_host() as host:
        pinned = host.mount_bpf()
        os.environ["MAGLEV0_BPFFS"] = str(pinned)
        command("ip", "route", "add", "default", "dev", INTERFACE)
        return _measured(pinned, rounds, samples, packets)


def _measured(pinned: Path, rounds: int, samples: int, packets: int) -> Sheet:
    made = 0

    def generator() -> Generator:
        nonlocal made
        made += 1
        return Generator(
            pinned / f"generator{made}",
            pinned.parent / "generator.o",
            frame(SERVICE.vip, SERVICE.cluster_mac),
            INTERFACE,
        )

    every, alone = ways(), Way("the generator itself", nothing)
    for _round in range(rounds):
        sending = generator()
        sending.send_from(alone.sources(ours=False))
        alone.refused_ns.extend(
            sending.ns_per_packet(packets, into_stack=False) for _sample in range(samples)
        )
        sending.close()
        for way in every:
            asyncio.run(measure(way, generator, samples, packets))
    return sheet([alone, *every], rounds, samples, packets)


def sheet(every: list[Way], rounds: int, samples: int, packets: int) -> Sheet:
    """The figures: medians, the range of all samples, and what is left of a refusal without the
    generator's own work.
    """
    own_ns = statistics.median(every[0].refused_ns)
    floor_ns = next(statistics.median(way.refused_ns) for way in every if way.name == FLOOR)
    rows = []
    for way in every:
        refused = _spread(way.refused_ns)
        rest = (None, None) if refused[0] is None else (refused[0] - own_ns, refused[0] / floor_ns)
        rows.append((way.name, *refused, *rest, *_spread(way.accepted_ns)))
    what = (
        f"{rounds} rounds of {samples} samples of {packets:,} packets; UDP, 60 "
        f"bytes, {SOURCES:,} sources, {SERVICE.total_nodes:,} buckets"
    )
    note = f"{machine()}; {what}; ratios are of whole times, the generator's own included"
    release = ".".join(platform.release().split(".")[:2])
    return Sheet(
        f"packets-{release}",
        f"nanoseconds a packet costs on Linux {release}, medians and ranges",
        COLUMNS,
        tuple(rows),
        note,
    )


def _spread(times_ns: list[float]) -> tuple[float | None, float | None, float | None]:
    return (
        (statistics.median(times_ns), min(times_ns), max(times_ns))
        if times_ns
        else (None, None, None)
    )


def main() -> None:
    """Print the figures, and keep them; the arguments, if any, are rounds, samples and packets."""
    publish(run(*(int(word) for word in sys.argv[1:])))


if __name__ == "__main__":
    try:
        main()
    except MaglevError as error:
        sys.exit(f"packets: {error}")
