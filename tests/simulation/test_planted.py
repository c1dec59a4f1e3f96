"""Each planted fault is found: a simulation that finds none would say nothing of the protocol."""

from __future__ import annotations

import logging

import pytest

from tests.simulation.adversary import play
from tests.simulation.planted import PLANTED
from tests.simulation.world import World

MOST = 2000  # schedules that a fault may hide from
# Where the search begins, for faults that the first hundreds of schedules do not show. It goes on
# from there when schedules change.
LONG_SEARCHES = {"takes a session back with another timeout": 1300}


def first_seed(fault: str) -> tuple[int, str]:
    """The first schedule that shows the fault, and how."""
    begin = LONG_SEARCHES.get(fault, 0)
    for seed in (*range(begin, MOST), *range(begin)):
        try:
            play(World(seed, make=PLANTED[fault]))
        except AssertionError as shown:
            return seed, str(shown)
    pytest.fail(f"not found in {MOST} schedules")


@pytest.mark.simulation
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    logging.disable(logging.CRITICAL)
    try:
        seed, shown = first_seed(fault)
    finally:
        logging.disable(logging.NOTSET)
    with capsys.disabled():
        print(f"\n{fault}: first seen with seed {seed}: {shown[:100]}")  # noqa: T201  the seed is the result
