"""What hand-overs and renewals cost in this kernel: `python -m tests.bench.nftables`, as root."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from maglev0.core.service import HashMode, Service
from maglev0.core.transition import Move
from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.protocol.ports.gate import Commit
from tests.support.one_host import one_host

SIZES = (5, 251, 4096, 65_537, 1 << 20)
# the share that a node loads is one fourth, and a move is what another one's coming or going makes
# of it
OWNERS = 4
RUNS = 7
RENEWALS = 200
LIMITS_MS = {"flip": 1.0, "renewal, CPU": 0.5, "stands still": 20.0}


class Cost(NamedTuple):
    """Times in milliseconds, medians but for the worst ones."""

    buckets: int
    guard: bool
    share_ms: float
    move_ms: float
    still_ms: float
    flip_ms: float
    renewal_ms: float
    owned_ms: float
    kept_ms: float
    restore_ms: float | None


async def elapsed_ms(action: Awaitable[object]) -> float:
    start_ns = time.perf_counter_ns()
    await action
    return (time.perf_counter_ns() - start_ns) / 1e6


@asynccontextmanager
async def watched(gaps_ms: list[float]) -> AsyncIterator[None]:
    """Note how long the loop stands still between its turns, in the processor's time."""

    async def turn() -> None:
        while True:
            before_ns = time.thread_time_ns()
            await asyncio.sleep(0)
            gaps_ms.append((time.thread_time_ns() - before_ns) / 1e6)

    turning = asyncio.create_task(turn())
    await asyncio.sleep(0)
    yield
    turning.cancel()
    with suppress(asyncio.CancelledError):
        await turning


async def flip(dataplane: Nftables, times_ms: list[float]) -> None:
    times_ms.extend([await elapsed_ms(dataplane.commit(phase)) for phase in Commit])


async def renewal_ms(dataplane: Nftables) -> float:
    """The processor's time for one."""
    before_ns = time.process_time_ns()
    for _renewal in range(RENEWALS):
        await dataplane.arm()
        await dataplane.promote()
    return (time.process_time_ns() - before_ns) / RENEWALS / 1e6


async def restored_ms(dataplane: Nftables) -> float:
    """From another program's flush of all rules to all of ours being back, the kernel's notice
    included.
    """
    flushed_ns = time.perf_counter_ns()
    process = await asyncio.create_subprocess_exec("nft", "flush", "ruleset")
    await dataplane.disturbed()
    while (
        not await dataplane.repair()
    ):  # of very many notices the last ones come when the first have been acted upon
        await dataplane.disturbed()
    taken_ms = (time.perf_counter_ns() - flushed_ns) / 1e6
    await process.wait()
    return taken_ms


async def cost(buckets: int, *, guard: bool) -> Cost:
    service = Service(
        IPv4Address("198.51.100.1"), "eth0", "03:bf:c6:33:64:01", buckets, HashMode.SOURCE_IP, 7
    )
    dataplane = Nftables(service, 1000, guard=guard)
    await dataplane.open()
    try:
        share = frozenset(range(1, buckets + 1, OWNERS))
        quarters = [frozenset(sorted(share)[first::OWNERS]) for first in range(OWNERS)]
        flips_ms: list[float] = []
        gaps_ms: list[float] = []
        share_ms = await elapsed_ms(dataplane.stage(Move(share, frozenset())))
        await flip(dataplane, flips_ms)
        moves_ms = []
        for run in range(RUNS):
            move = Move(quarters[run % OWNERS - 1] if run else frozenset(), quarters[run % OWNERS])
            async with watched(gaps_ms):
                moves_ms.append(await elapsed_ms(dataplane.stage(move)))
            await flip(dataplane, flips_ms)
        owned_ms = statistics.median([await elapsed_ms(dataplane.owned()) for _run in range(RUNS)])
        kept_ms = statistics.median([await elapsed_ms(dataplane.kept()) for _run in range(RUNS)])
        restore_ms = (
            None
            if guard
            else statistics.median([await restored_ms(dataplane) for _run in range(RUNS)])
        )
        return Cost(
            buckets,
            guard,
            share_ms,
            statistics.median(moves_ms),
            max(gaps_ms),
            max(flips_ms),
            await renewal_ms(dataplane),
            owned_ms,
            kept_ms,
            restore_ms,
        )
    finally:
        await dataplane.close()


def run() -> tuple[Cost, ...]:
    """Measure in a network namespace of our own, within a minute."""
    with one_host():
        return tuple(
            asyncio.run(cost(size, guard=guard)) for guard in (True, False) for size in SIZES
        )


def costs_table(costs: tuple[Cost, ...]) -> Table:
    limits = ", ".join(f"{name} {limit} ms" for name, limit in LIMITS_MS.items())
    shown = Table(
        title=(
            f"nftables: one node of {OWNERS}, a fourth of its share goes and "
            f"another comes; restored: behind 'nft flush ruleset'. Limits: {limits}"
        )
    )
    titles = (
        "buckets",
        "guarded",
        "load share",
        "load move",
        "stands still",
        "worst flip",
        "renewal, CPU",
        "owned",
        "kept",
        "restored",
    )
    for title in titles:
        shown.add_column(title, justify="right")
    for buckets, guard, *times_ms in costs:
        shown.add_row(
            f"{buckets:,}",
            "yes" if guard else "no",
            *("" if time_ms is None else f"{time_ms:.2f} ms" for time_ms in times_ms),
        )
    return shown


def main() -> None:
    """Print the table."""
    Console(width=150).print(costs_table(run()))


if __name__ == "__main__":
    main()
