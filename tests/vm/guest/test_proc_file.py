"""The proc file follows the owned set, whatever it held before.

What the kernel refuses is said in its terms.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from maglev0.core.service import Service
from maglev0.core.transition import Move
from maglev0.dataplane.clusterip import proc_file
from maglev0.dataplane.clusterip.dataplane import ClusterIP
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.gate import Commit
from maglev0.protocol.ports.readings import Connections
from tests.vm.guest import space as host
from tests.vm.guest.moves import own

ROUNDS = 200


def test_a_move_makes_the_kernel_hold_exactly_what_is_asked_from_any_state(
    dataplane: ClusterIP,
) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)

    def some() -> frozenset[int]:
        return frozenset(bucket for bucket in range(1, 6) if chance.random() < 0.5)

    async def wander() -> None:
        await dataplane.open()
        for _ in range(ROUNDS):
            before, wanted = some(), some()
            _force(before)
            await dataplane.stage(Move(gains=wanted - before, losses=before - wanted))
            assert host.in_force() == listed(before), f"seed {seed}"
            for _again in range(2):
                await dataplane.commit(Commit.RELEASE)
                assert host.in_force() == listed(before & wanted), f"seed {seed}"
            for _again in range(2):
                await dataplane.commit(Commit.ACQUIRE)
                assert host.in_force() == listed(wanted), f"seed {seed}"
            assert await dataplane.owned() == wanted

    asyncio.run(wander())


def test_a_move_that_another_replaces_is_forgotten_where_it_was_not_flipped(
    dataplane: ClusterIP,
) -> None:
    async def change_of_mind() -> None:
        await dataplane.open()
        await own(dataplane, frozenset({1, 2}))
        await dataplane.stage(Move(gains=frozenset({4}), losses=frozenset({1})))
        await dataplane.commit(Commit.RELEASE)
        await dataplane.stage(Move(gains=frozenset({5}), losses=frozenset()))
        await dataplane.commit(Commit.RELEASE)
        await dataplane.commit(Commit.ACQUIRE)

    asyncio.run(change_of_mind())
    assert host.in_force() == "2,5"


def test_no_connection_is_kept_or_counted(dataplane: ClusterIP) -> None:
    async def ask() -> None:
        await dataplane.open()
        await own(dataplane, frozenset({1, 2}))
        await own(dataplane, frozenset({1}))
        assert await dataplane.connections() == Connections(frozenset(), 0)
        assert await dataplane.kept() == frozenset()
        await dataplane.unpin(frozenset({1, 2}))
        assert await dataplane.owned() == {1}

    asyncio.run(ask())


@pytest.mark.parametrize("bucket", [0, 6, 17])
def test_a_bucket_beyond_the_total_is_refused(dataplane: ClusterIP, bucket: int) -> None:
    async def overreach() -> None:
        await dataplane.open()
        with pytest.raises(
            DataplaneError, match=rf"writing \+{bucket} .*not one of the rule's total nodes"
        ):
            await own(dataplane, frozenset({bucket}))

    asyncio.run(overreach())


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("+2", "that bucket is in force already"),
        ("-3", "that bucket is not in force"),
        ("5", "Input/output error"),
        ("+1junk", "Invalid argument"),
        ("+" + "1" * 20, "Input/output error"),
    ],
)
def test_each_refusal_of_the_kernel_has_its_words(
    dataplane: ClusterIP, service: Service, operation: str, words: str
) -> None:
    async def provoke() -> None:
        await dataplane.open()
        await own(dataplane, frozenset({2}))
        with pytest.raises(DataplaneError, match=words):
            proc_file.write_operation(service.vip, operation)

    asyncio.run(provoke())
    assert host.in_force() == "2"


def test_without_the_rule_nothing_is_read_or_written(dataplane: ClusterIP) -> None:
    async def ask() -> None:
        await dataplane.open()
        host.iptables("-F INPUT")
        with pytest.raises(DataplaneError, match="rule is gone"):
            await dataplane.owned()
        with pytest.raises(DataplaneError, match="rule is gone"):
            await dataplane.commit(Commit.RELEASE)
        with pytest.raises(DataplaneError, match="rule is gone"):
            await dataplane.commit(Commit.ACQUIRE)

    asyncio.run(ask())


def listed(buckets: frozenset[int]) -> str:
    """As the proc file has it."""
    return ",".join(map(str, sorted(buckets)))


def _force(buckets: frozenset[int]) -> None:
    """Bring the proc file into a state by another hand."""
    held = {int(number) for number in (host.in_force() or "").split(",") if number}
    for operation in [f"-{bucket}" for bucket in held - buckets] + [
        f"+{bucket}" for bucket in buckets - held
    ]:
        host.PROC_FILE.write_text(operation)
