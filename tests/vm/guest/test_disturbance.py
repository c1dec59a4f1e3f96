"""What others take away is noticed within the poll's second and restored.

What cannot be restored is an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from maglev0.dataplane.clusterip.dataplane import POLL_INTERVAL_S, ClusterIP
from maglev0.errors import DataplaneError
from tests.vm.guest import space as host
from tests.vm.guest.moves import own

NOTICE_TIMEOUT_S = 10 * POLL_INTERVAL_S  # all is slow here


@pytest.mark.parametrize(
    ("disturb", "restored"),
    [
        (
            lambda: host.iptables("-F INPUT"),
            (
                "the CLUSTERIP rule of 198.51.100.1",
                "the guard of 198.51.100.1",
                "the owned buckets of 198.51.100.1",
            ),
        ),
        (host.remove_address, ("the address 198.51.100.1",)),
        (lambda: host.PROC_FILE.write_text("+1"), ("the owned buckets of 198.51.100.1",)),
        (lambda: host.PROC_FILE.write_text("-2"), ("the owned buckets of 198.51.100.1",)),
    ],
    ids=["rules flushed", "address deleted", "bucket added", "bucket removed"],
)
def test_what_is_taken_away_is_noticed_and_restored(
    dataplane: ClusterIP, disturb: Callable[[], object], restored: tuple[str, ...]
) -> None:
    async def suffer() -> None:
        await dataplane.open()
        await own(dataplane, frozenset({2, 3}))
        assert await dataplane.repair() == ()
        await asyncio.to_thread(
            disturb
        )  # pyroute2's plain sockets refuse to work beside a running loop
        await asyncio.wait_for(dataplane.disturbed(), NOTICE_TIMEOUT_S)
        assert await dataplane.repair() == restored
        assert await dataplane.repair() == ()

    asyncio.run(suffer())
    assert host.in_force() == "2,3"
    assert len(host.clusterip_rules()) == len(host.addresses()) == 1


def test_an_undisturbed_node_is_left_in_peace(dataplane: ClusterIP) -> None:
    async def rest() -> None:
        await dataplane.open()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(dataplane.disturbed(), 3 * POLL_INTERVAL_S)

    asyncio.run(rest())


def test_a_link_that_is_down_is_noticed_and_cannot_be_repaired_until_it_is_up(
    dataplane: ClusterIP,
) -> None:
    async def suffer() -> None:
        await dataplane.open()
        await own(dataplane, frozenset({5}))
        await asyncio.to_thread(host.set_link, "down")
        await asyncio.wait_for(dataplane.disturbed(), NOTICE_TIMEOUT_S)
        with pytest.raises(DataplaneError, match="eth0"):
            await dataplane.repair()
        await asyncio.to_thread(host.set_link, "up")
        assert await dataplane.repair() == ()

    asyncio.run(suffer())
    assert host.in_force() == "5"


def test_without_its_link_it_does_not_open_and_touches_nothing(dataplane: ClusterIP) -> None:
    host.set_link("down")

    async def try_it() -> None:
        with pytest.raises(DataplaneError, match="eth0"):
            await dataplane.open()
        await dataplane.close()

    asyncio.run(try_it())
    assert host.in_force() is None
    assert host.clusterip_rules() == host.addresses() == []


def test_a_rule_made_anew_with_other_settings_is_no_repair(dataplane: ClusterIP) -> None:
    """It would hash otherwise than the rest of the cluster."""

    async def suffer() -> None:
        await dataplane.open()
        await own(dataplane, frozenset({2}))
        await asyncio.to_thread(host.iptables, "-F INPUT")
        await asyncio.to_thread(host.iptables, f"{host.BY_HAND} --hash-init 7")
        await asyncio.wait_for(dataplane.disturbed(), NOTICE_TIMEOUT_S)
        with pytest.raises(DataplaneError, match="its --hash-init is 7, not 0"):
            await dataplane.repair()

    asyncio.run(suffer())
