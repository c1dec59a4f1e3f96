"""The protocol under the adversary: schedules that are told by their seed alone."""

from __future__ import annotations

import logging

import pytest

from tests.simulation.adversary import play
from tests.simulation.world import World

# These few run with the coverage measured, which shows a branch of the protocol that no schedule
# takes.
MEASURED = 100
SCHEDULES, CHUNK = 2000, 250


def attack(seeds: range) -> None:
    """Play schedules; the first that breaks a promise is named."""
    logging.disable(logging.CRITICAL)
    try:
        for seed in seeds:
            try:
                play(World(seed))
            except AssertionError as error:
                pytest.fail(
                    f"seed {seed}: {error}; "
                    f"python -m tests.simulation --seed {seed} shows all events"
                )
    finally:
        logging.disable(logging.NOTSET)


def test_a_few_schedules_keep_every_promise() -> None:
    attack(range(MEASURED))


@pytest.mark.simulation
@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_schedules_keep_every_promise(first: int) -> None:
    attack(range(first, first + CHUNK))
