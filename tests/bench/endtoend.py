"""What a cluster's load costs its nodes, with and without XDP.

`python -m tests.bench.endtoend`, as root.

Real daemons on a lab's nodes; a generator in the kernel puts the same packets a second into the
switch, which floods them to all. The nodes share one machine, so what is measured is the
processors' time of the whole machine, less what it takes while nothing is sent.
"""

from __future__ import annotations

import random
import time
from ipaddress import IPv4Address
from pathlib import Path

from maglev0.core.service import Xdp
from maglev0.lab.testbed import addresses, claim, libc, namespace
from maglev0.lab.testbed.cluster import Lab, LabSettings
from tests.bench.generator import SOURCES, Generator, frame
from tests.bench.sheet import Sheet, machine, publish

NODES = (2, 4, 8)
MODES = (Xdp.OFF, Xdp.GENERIC, Xdp.NATIVE)
TOTAL_NODES = 65_537
RATE, SECONDS, BATCH = 40_000, 6.0, 2_000
LOOK_AHEAD_S = 5.0  # a node at rest works out for some seconds what comes when others are gone
MAC = "03:bf:c6:33:64:01"
COLUMNS = (
    "nodes",
    "XDP",
    "packets/s",
    "CPU at rest, % of a core",
    "under load",
    "load, % of a core per node",
    "µs a packet per node",
)
_STAT = Path("/proc/stat")
_TICKS_PER_S = 100  # USER_HZ of proc(5)


def busy_s() -> float:
    """The processors' time since boot that was not idle."""
    user, nice, system, _idle, _wait, irq, softirq, *_rest = (
        int(word) for word in _STAT.read_text().partition("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def share(seconds: float) -> float:
    """How much of one processor is busy over that time."""
    start_s, before_s = time.monotonic(), busy_s()
    time.sleep(seconds)
    return (busy_s() - before_s) / (time.monotonic() - start_s)


def sources() -> list[IPv4Address]:
    """Clients that never hear the answers: the lab throws away what goes to them."""
    first = int(addresses.PROBERS.network_address) + 1
    return [
        IPv4Address(number)
        for number in random.Random(1).sample(
            range(first, first + addresses.PROBERS.num_addresses - 2), SOURCES
        )
    ]


def offer(generator: Generator) -> tuple[float, float]:
    """Send at the fixed rate for a while.

    How much of one processor that keeps busy, and the packets a second that it really was.
    """
    sent, start_s, before_s = 0, time.monotonic(), busy_s()
    while (now_s := time.monotonic() - start_s) < SECONDS:
        due = int(now_s * RATE) - sent
        if due >= BATCH:
            generator.ns_per_packet(BATCH)
            sent += BATCH
        else:
            time.sleep((BATCH - due) / RATE)
    elapsed_s = time.monotonic() - start_s
    return (busy_s() - before_s) / elapsed_s, sent / elapsed_s


def measure(nodes: int, mode: Xdp) -> tuple[int, str, float, float, float, float, float]:
    """One cluster, from nothing to its figures."""
    settings = LabSettings(
        nodes,
        TOTAL_NODES,
        dataplane="nftables",
        session_timeout_s=4.0,
        more_flags=(f"--xdp={mode}",),
    )
    mine = claim.claim()
    with Lab(settings, mine) as cluster:
        cluster.start()
        pinned = mine.directory / "bpf"
        pinned.mkdir()
        libc.mount_bpf(str(pinned))
        with namespace.inside(mine.namespace("switch")):
            generator = Generator(
                pinned / "generator",
                mine.directory / "generator.o",
                frame(settings.vip, MAC),
                "client",
            )
            generator.send_from(sources())
            time.sleep(LOOK_AHEAD_S)
            rest = share(SECONDS)
            loaded, rate = offer(generator)
            generator.close()
    load = (loaded - rest) / nodes
    return nodes, str(mode), rate, rest * 100, loaded * 100, load * 100, load / rate * 1e6


def run() -> Sheet:
    """All clusters, one after the other."""
    rows = tuple(measure(nodes, mode) for nodes in NODES for mode in MODES)
    note = (
        f"{machine()}; {RATE:,} packets a second for {SECONDS:.0f} s, UDP, 60 bytes, "
        "flooded by a bridge over veths: there a packet has its buffer "
        "before XDP sees it, which a network card's driver spares"
    )
    return Sheet("endtoend", "a cluster's load on its nodes", COLUMNS, rows, note)


def main() -> None:
    """Show the figures, and keep them."""
    publish(run())


if __name__ == "__main__":
    main()
