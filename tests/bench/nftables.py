"""What loading and changing the owned buckets costs in this kernel: `python -m tests.bench.nftables`, as root."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from maglev0.dataplane.nftables import Nftables
from maglev0.lab import claim, namespace, network
from maglev0.lab.network import TRAFFIC, Network, Socket
from maglev0.service import HashMode, Service

SIZES = (5, 251, 4096, 65_537, 1 << 20)
OWNERS = 3  # the share that a node loads is one third
CHANGED = 0.01  # of all buckets, of which half come and half go
RUNS = 9
LOAD_LIMIT_MS = {65_537: 100}
CHANGE_LIMIT_MS = {65_537: 5}


class Cost(NamedTuple):
    """Times in milliseconds, medians but for the last."""

    size: int
    load_ms: float
    change_ms: float
    read_ms: float
    restore_ms: float
    worst_restore_ms: float


async def elapsed_ms(action: Awaitable[object]) -> float:
    start_ns = time.perf_counter_ns()
    await action
    return (time.perf_counter_ns() - start_ns) / 1e6


async def median_ms(action: Callable[[int], Awaitable[object]], between: Callable[[], Awaitable[object]]) -> float:
    times = []
    for run in range(RUNS):
        times.append(await elapsed_ms(action(run)))
        await between()
    return statistics.median(times)


async def cost(size: int) -> Cost:
    dataplane = Nftables(Service(IPv4Address("198.51.100.1"), "eth0", "03:bf:c6:33:64:01", size, HashMode.SOURCE_IP, 7))
    await dataplane.open()
    try:
        share = frozenset(range(1, size + 1, OWNERS))
        half = max(1, int(size * CHANGED / 2))
        moved = frozenset(sorted(share)[half:]) | frozenset(range(2, 2 + OWNERS * half, OWNERS))

        async def empty() -> None:
            await dataplane.apply(frozenset())

        async def nothing() -> None:
            pass

        load_ms = await median_ms(lambda _run: dataplane.apply(share), empty)
        await dataplane.apply(share)
        change_ms = await median_ms(lambda run: dataplane.apply(share if run % 2 else moved), nothing)
        read_ms = await median_ms(lambda _run: dataplane.owned(), nothing)
        restores = [await restored_ms(dataplane) for _run in range(RUNS)]
        return Cost(size, load_ms, change_ms, read_ms, statistics.median(restores), max(restores))
    finally:
        await dataplane.close()


async def restored_ms(dataplane: Nftables) -> float:
    """From another program's flush of all rules to all of ours being back, the kernel's notice included."""
    noticed = asyncio.create_task(dataplane.disturbed())
    await asyncio.sleep(0)
    flushed_ns = time.perf_counter_ns()
    process = await asyncio.create_subprocess_exec("nft", "flush", "ruleset")
    await noticed
    await dataplane.repair()
    taken_ms = (time.perf_counter_ns() - flushed_ns) / 1e6
    await process.wait()
    return taken_ms


def run() -> tuple[Cost, ...]:
    """Measure in a network namespace of our own, within a minute."""
    mine = claim.claim()
    try:
        switch = Network(mine.namespace("switch"))
        switch.create()
        network.make_namespace(mine.namespace("host"))
        switch.plug("host", TRAFFIC, Socket(mine.namespace("host"), "eth0", IPv4Address("198.18.0.1")))
        with namespace.inside(mine.namespace("host")):
            return tuple(asyncio.run(cost(size)) for size in SIZES)
    finally:
        claim.remove(mine.name)
        mine.release()


def costs_table(costs: tuple[Cost, ...]) -> Table:
    shown = Table(
        title=f"nftables: one node of {OWNERS}; {CHANGED:.0%} of the buckets changed; restored behind 'nft flush ruleset', its start included"
    )
    for column in ("buckets", "load", "limit", "change", "limit", "read back", "restore", "worst restore"):
        shown.add_column(column, justify="right")
    for row in costs:
        limits = [f"{limit[row.size]} ms" if row.size in limit else "" for limit in (LOAD_LIMIT_MS, CHANGE_LIMIT_MS)]
        shown.add_row(
            f"{row.size:,}",
            f"{row.load_ms:.2f} ms",
            limits[0],
            f"{row.change_ms:.2f} ms",
            limits[1],
            f"{row.read_ms:.2f} ms",
            f"{row.restore_ms:.1f} ms",
            f"{row.worst_restore_ms:.1f} ms",
        )
    return shown


def main() -> None:
    """Print the table."""
    Console(width=130).print(costs_table(run()))


if __name__ == "__main__":
    main()
