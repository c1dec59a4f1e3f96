"""Play schedules of the protocol under the adversary.

``python -m tests.simulation --seeds 0:2000`` plays many on all cores, and names those that break a
promise.
``--seed 7`` plays one and tells its story.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time

from tests.simulation.adversary import play
from tests.simulation.world import World

CHUNK = 50  # schedules that one process plays before it asks for more


def attack(seed: int) -> tuple[int, str]:
    """Play one schedule; what went wrong, if anything did."""
    logging.disable(logging.CRITICAL)
    try:
        play(World(seed))
    except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
        return seed, f"{type(error).__name__}: {error}"
    return seed, ""


def attack_all(seeds: range) -> int:
    """Play all of them and tell; how many failed."""
    started_s, failed = time.perf_counter(), 0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for seed, fault in pool.imap_unordered(attack, seeds, CHUNK):
            if fault:
                failed += 1
                sys.stdout.write(f"seed {seed}: {fault}\n")
                sys.stdout.flush()
    spent_s = time.perf_counter() - started_s
    sys.stdout.write(
        f"{len(seeds)} schedules, seeds {seeds.start} to {seeds.stop - 1}, "
        f"{failed} failed, {spent_s:.0f} s\n"
    )
    return failed


def tell(seed: int) -> int:
    """Play one schedule and print its last events; 1 if it failed."""
    logging.disable(logging.CRITICAL)
    world = World(seed, trace=True)
    fault = ""
    try:
        play(world)
    except Exception as error:  # noqa: BLE001
        fault = f"{type(error).__name__}: {error}"
    sys.stdout.write(
        "\n".join(
            [*map(str, world.scheduler.traced), f"seed {seed}: {fault or 'every promise was kept'}"]
        )
        + "\n"
    )
    return int(bool(fault))


def main() -> int:
    """Run what the command line asks for; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", default="0:2000", help="FIRST:END [default: 0:2000]")
    parser.add_argument("--seed", type=int, help="one schedule, with its last events")
    asked = parser.parse_args()
    if asked.seed is not None:
        return tell(asked.seed)
    first, end = map(int, asked.seeds.split(":"))
    return int(attack_all(range(first, end)) > 0)


if __name__ == "__main__":
    sys.exit(main())
