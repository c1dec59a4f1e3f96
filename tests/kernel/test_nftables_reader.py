"""Readings of nf_tables that interleave: one is suspended between parts while others run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from maglev0.dataplane.nftables import ruleset
from maglev0.dataplane.nftables.dataplane import Nftables
from tests.kernel.conftest import Host
from tests.kernel.nft import LEASE_MS, SERVICE, hand_over

pytestmark = pytest.mark.kernel

LARGE = replace(SERVICE, total_nodes=20_011)
OWNED = frozenset(range(1, 10_001))  # so many that a dump has several parts


@asynccontextmanager
async def serving() -> AsyncIterator[Nftables]:
    dataplane = Nftables(LARGE, LEASE_MS)
    try:
        await dataplane.open()
        await hand_over(dataplane, OWNED)
        yield dataplane
    finally:
        await dataplane.close()


async def suspended_at(reading: asyncio.Task[object], parts: int) -> bool:
    """Let a reading go on for so many parts; whether it is still under way."""
    for _part in range(parts):
        await asyncio.sleep(0)
    return not reading.done()


async def at_every_part(
    read: Callable[[], Awaitable[object]], act: Callable[[], Awaitable[None]]
) -> int:
    """Suspend a reading after its first, second ... part and act; return how often that was.

    The reading must have the same result each time.
    """
    wanted = await read()
    for parts in range(1, 1000):
        reading = asyncio.ensure_future(read())
        under_way = await suspended_at(reading, parts)
        await act()
        assert await reading == wanted
        if not under_way:
            return parts - 1
    raise AssertionError("the reading does not end")


def test_counters_are_read_whole_while_another_reading_is_suspended(host: Host) -> None:  # noqa: ARG001
    async def scenario() -> None:
        async with serving() as dataplane:
            wanted = await dataplane.counters()
            assert wanted is not None
            assert wanted.new_flows is not None

            async def count() -> None:
                assert await dataplane.counters() == wanted

            assert await at_every_part(dataplane.owned, count) > 3
            assert await dataplane.owned() == OWNED

    asyncio.run(scenario())


def test_two_readings_of_sets_may_be_suspended_at_once(host: Host) -> None:  # noqa: ARG001
    async def scenario() -> None:
        async with serving() as dataplane:

            async def read_another() -> None:
                reader = dataplane._tables.reader
                assert len(await reader.elements(ruleset.ADMITTED)) == len(OWNED)

            assert await at_every_part(dataplane.owned, read_another) > 3

    asyncio.run(scenario())


def test_a_reading_that_is_cancelled_leaves_the_others_alone(host: Host) -> None:  # noqa: ARG001
    async def scenario() -> None:
        async with serving() as dataplane:
            for parts in range(1, 5):
                cancelled = asyncio.ensure_future(dataplane.owned())
                other = asyncio.ensure_future(dataplane.owned())
                assert await suspended_at(cancelled, parts)
                cancelled.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
                assert await other == await dataplane.owned() == OWNED

    asyncio.run(scenario())
