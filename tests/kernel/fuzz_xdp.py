"""Compare the XDP program with the nftables rules on random and malformed frames.

Usage, as root: `python -m tests.kernel.fuzz_xdp [COUNT [SEED]]`.
"""

from __future__ import annotations

import asyncio
import random
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from maglev0.core.service import HashMode, Service, Xdp
from maglev0.core.transition import Move
from maglev0.dataplane.nftables.dataplane import Nftables
from tests.kernel.xdp import Program, Rules, alone, frame
from tests.support.one_host import INTERFACE

SIZES = (1, 2, 5, 64, 65_537, 1 << 20)
DEFAULTS = ("1000000", "1")
VIP = IPv4Address("198.51.100.1")


class Outcome(NamedTuple):
    """The numbers of frames tried and dropped, and the frames that the program judged wrongly."""

    tried: int
    dropped: int
    wrongly_dropped: tuple[bytes, ...]
    wrongly_passed: tuple[bytes, ...]


def compare(rules: Rules, program: Program, rng: random.Random, count: int) -> Outcome:
    dropped, wrongly_dropped, wrongly_passed = 0, [], []
    for _frame in range(count):
        made = frame(rng, rules.service.vip)
        if program.drops(made):
            dropped += 1
            if not rules.drop(made):
                wrongly_dropped.append(made)
        elif rules.must_drop(made):
            wrongly_passed.append(made)
    return Outcome(count, dropped, tuple(wrongly_dropped), tuple(wrongly_passed))


async def fuzz(service: Service, file_system: Path, rng: random.Random, count: int) -> Outcome:
    """Try frames on one service; a random part of its buckets is admitted."""
    dataplane = Nftables(service, 60_000, xdp=Xdp.NATIVE)
    await dataplane.open()
    try:
        gains = frozenset(
            rng.sample(range(1, service.total_nodes + 1), min(20_000, service.total_nodes // 3))
        )
        await dataplane.stage(Move(gains, frozenset()))
        program = Program(file_system)
        try:
            return compare(Rules(service, gains), program, rng, count)
        finally:
            program.close()
    finally:
        await dataplane.close()


def run(count: int, seed: int) -> tuple[tuple[Service, Outcome], ...]:
    """Try `count` frames, in equal parts on clusters of all hash modes and many sizes."""
    rng = random.Random(seed)
    services = [
        Service(VIP, INTERFACE, "03:bf:c6:33:64:01", size, mode, rng.randrange(1 << 32))
        for size in SIZES
        for mode in HashMode
    ]
    with alone() as file_system:
        return tuple(
            (service, asyncio.run(fuzz(service, file_system, rng, -(-count // len(services)))))
            for service in services
        )


def main() -> int:
    """Print the counts and the wrongly judged frames; return 1 if there are any."""
    count, seed = (int(word) for word in [*sys.argv[1:], *DEFAULTS[len(sys.argv) - 1 :]])
    outcomes = run(count, seed)
    wrong = 0
    for service, outcome in outcomes:
        wrong += len(outcome.wrongly_dropped) + len(outcome.wrongly_passed)
        for made in (*outcome.wrongly_dropped, *outcome.wrongly_passed)[:3]:
            sys.stdout.write(
                f"{service.total_nodes} buckets by {service.hash_mode}: {made.hex()}\n"
            )
    tried, dropped = (
        sum(getattr(outcome, name) for _service, outcome in outcomes)
        for name in ("tried", "dropped")
    )
    sys.stdout.write(
        f"seed {seed}: {tried:,} frames, {dropped:,} dropped, {wrong} judged wrongly\n"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
