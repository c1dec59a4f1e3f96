"""What reading connection tracking costs.

`python -m tests.bench.conntrack`, as root; half a minute.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import time
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from maglev0.core.packet_hash import PacketHash
from maglev0.core.service import HashFamily, HashMode
from maglev0.dataplane.conntrack import connections
from maglev0.dataplane.conntrack import message as ctmessage
from maglev0.dataplane.conntrack.message import Connection, ConntrackEntry, TcpState
from maglev0.dataplane.netlink.message import NETLINK_NETFILTER
from maglev0.lab.testbed import claim, namespace, network
from maglev0.protocol.ports.readings import Connections

VIP = IPv4Address("198.51.100.1")
OTHER = IPv4Address("198.51.100.2")
ENTRIES = 200_000
CLIENTS = IPv4Address("10.0.0.0")
PORTS = 50_000
AT_ONCE = 64
STEP_LIMIT_MS = 20
TICK_S = 0.001


class Load(NamedTuple):
    """What fills the table: entries to which address, from how many sources."""

    title: str
    dest: IPv4Address
    sources: int


LOADS = (
    Load("to the VIP, each from its own source", VIP, ENTRIES),
    Load("to the VIP, from 2,000 sources", VIP, 2000),
    Load("to another address", OTHER, ENTRIES),
)


class Cost(NamedTuple):
    """Of one pass, in milliseconds.

    Time gone by, processor time of all threads, and the loop's longest step, in time gone by and of
    its thread.
    """

    flows: Connections
    wall_ms: float
    processor_ms: float
    longest_wall_ms: float
    longest_processor_ms: float


def hashing(mode: HashMode) -> PacketHash:
    return PacketHash(HashFamily.NFTABLES, mode, 7, 65_537)


def connection(number: int, sources: int) -> Connection:
    """One of many connections, all different as long as no source has more of them than there are
    ports.
    """
    turn, source = divmod(number, sources)
    return Connection(
        struct.pack("!IHH", int(CLIENTS) + source, 1024 + (turn + source) % PORTS, 80)
    )


def fill(dest: IPv4Address, sources: int, count: int = ENTRIES) -> None:
    """Enter established connections into the table of the calling thread's namespace."""
    enter(
        [
            ConntrackEntry(dest, connection(number, sources), TcpState.ESTABLISHED, 86_400)
            for number in range(count)
        ]
    )


def enter(entries: Sequence[ConntrackEntry]) -> None:
    """Enter these, of which the table may hold none."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
        for start in range(0, len(entries), AT_ONCE):
            some = entries[start : start + AT_ONCE]
            kernel.send(
                b"".join(ctmessage.create(number, entry) for number, entry in enumerate(some))
            )
            codes = {ctmessage.refusal(kernel.recv(1 << 15)) for _ in some}
            assert codes == {0}, [errno.errorcode.get(code) for code in codes]


async def cost(mode: HashMode) -> Cost:
    """One pass, while somebody else on the loop wants to be woken every millisecond."""
    longest_wall_s = longest_processor_s = 0.0

    async def tick() -> None:
        nonlocal longest_wall_s, longest_processor_s
        while True:
            wall_s, processor_s = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK_S)
            longest_wall_s = max(longest_wall_s, time.perf_counter() - wall_s - TICK_S)
            longest_processor_s = max(longest_processor_s, time.thread_time() - processor_s)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    wall_s, processor_s = time.perf_counter(), time.process_time()
    flows = await connections.held(VIP, hashing(mode))
    wall_s, processor_s = time.perf_counter() - wall_s, time.process_time() - processor_s
    ticking.cancel()
    return Cost(
        flows, wall_s * 1e3, processor_s * 1e3, longest_wall_s * 1e3, longest_processor_s * 1e3
    )


def measured(load: Load | None) -> dict[HashMode, Cost]:
    """The cost in a namespace of our own, with its table filled, or empty."""
    mine = claim.claim()
    try:
        network.make_namespace(mine.namespace("host"))
        with namespace.inside(mine.namespace("host")):
            if load is not None:
                fill(load.dest, load.sources)
            return {mode: asyncio.run(cost(mode)) for mode in HashMode}
    finally:
        claim.remove(mine.name)
        mine.release()


def main() -> None:
    """Print the table."""
    shown = Table(title=f"connection tracking: one pass; limit of a step {STEP_LIMIT_MS} ms")
    for column in (
        "entries",
        "hash mode",
        "time",
        "processor",
        "longest step",
        "of its processor",
        "buckets",
    ):
        shown.add_column(column, justify="right")
    for load in (None, *LOADS):
        for mode, row in measured(load).items():
            shown.add_row(
                "none" if load is None else f"{ENTRIES:,} {load.title}",
                mode,
                f"{row.wall_ms:.0f} ms",
                f"{row.processor_ms:.0f} ms",
                f"{row.longest_wall_ms:.1f} ms",
                f"{row.longest_processor_ms:.1f} ms",
                f"{len(row.flows.buckets):,}",
            )
    Console(width=150).print(shown)


if __name__ == "__main__":
    main()
