"""What other programs do to our tables.

Kept from it where the kernel can, mended behind them where it cannot.
"""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from maglev0.core.transition import Move
from maglev0.dataplane.nftables import reader
from maglev0.dataplane.nftables.dataplane import remove_leftovers
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.gate import Commit
from tests.kernel.conftest import Host
from tests.kernel.nft import (
    NOTHING,
    SERVICE,
    TABLE,
    Listed,
    hand_over,
    killed_after,
    listed,
    opened,
    owning,
    renew,
)
from tests.support.one_host import INTERFACE
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.kernel

RULES = "the nftables rules"
FLUSH = ("nft", "flush", "ruleset")
LEASE_ENDS = {
    "flush ruleset": FLUSH,
    "a rule inserted": ("nft", "insert", "rule", "inet", TABLE, "judge", "accept"),
    "a chain added": ("nft", "add", "chain", "inet", TABLE, "theirs"),
    "arp table removed": ("nft", "delete", "table", "arp", TABLE),
    "another lease put in force": (
        "nft",
        (
            f"flush map inet {TABLE} lease_slot; add element inet {TABLE} "
            f"lease_slot {{ {SERVICE.vip} : goto leased }}"
        ),
    ),
    "no lease in force": ("nft", "flush", "map", "inet", TABLE, "lease_slot"),
}
LEASE_STAYS = {
    "an element added": ("nft", f"add element inet {TABLE} owned_b {{ 5 }}"),
    "an element with a comment added": (
        "nft",
        f'add element inet {TABLE} owned_b {{ 5 comment "theirs" }}',
    ),
    "an element removed": ("nft", f"delete element inet {TABLE} admitted {{ 1 }}"),
    "nothing in force": ("nft", "flush", "map", "inet", TABLE, "owned_slot"),
}
TAMPERINGS = {**LEASE_ENDS, **LEASE_STAYS}


@pytest.mark.parametrize("case", TAMPERINGS)
def test_what_others_change_is_noticed_and_restored_where_the_kernel_lets_them(
    host: Host, case: str
) -> None:
    async def scenario() -> None:
        async with opened(guard=False) as dataplane:
            await hand_over(dataplane, {1, 3})
            await hand_over(dataplane, {4}, {3})
            await renew(dataplane)
            await dataplane.repair()
            before = host.ruleset().partition("lease")[0]
            noticed = asyncio.create_task(dataplane.disturbed())
            await asyncio.sleep(0)
            host.run(*TAMPERINGS[case])
            await asyncio.wait_for(noticed, PATIENCE_S)
            assert await dataplane.repair() == (RULES,)
            assert listed(host) == Listed(
                frozenset({1, 4}), frozenset({1, 3, 4}), leased=case in LEASE_STAYS
            )
            assert await dataplane.kept() == {3}
            assert before in host.ruleset()
            assert await dataplane.repair() == ()
            await renew(dataplane)
            assert listed(host).leased

    asyncio.run(scenario())
    assert host.ruleset() == ""


def test_the_address_is_noticed_and_restored(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            noticed = asyncio.create_task(dataplane.disturbed())
            await asyncio.sleep(0)
            host.run("ip", "address", "del", f"{SERVICE.vip}/32", "dev", INTERFACE)
            await asyncio.wait_for(noticed, PATIENCE_S)
            assert await dataplane.repair() == (f"the address {SERVICE.vip}",)

    asyncio.run(scenario())


def complaint(command: tuple[str, ...]) -> str:
    """What a program says on stderr, whether or not it succeeds."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("case", TAMPERINGS)
def test_nobody_else_can_change_anything_where_the_kernel_forbids_it(host: Host, case: str) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            await hand_over(dataplane, {1, 3})
            await renew(dataplane)
            before = (host.run("nft", "list", "tables"), listed(host))
            said = complaint(TAMPERINGS[case])
            assert "Operation not permitted" in said or (case == "flush ruleset" and not said)
            assert (host.run("nft", "list", "tables"), listed(host)) == before
            assert await dataplane.repair() == ()
            assert listed(host).leased

    asyncio.run(scenario())


def test_a_second_daemon_of_the_same_vip_is_told_so_and_changes_nothing(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as first:
            await hand_over(first, {1})
            before = host.ruleset()
            with pytest.raises(DataplaneError, match=f"{TABLE} belongs to another process"):
                async with opened():
                    pass
            with pytest.raises(DataplaneError, match=f"{TABLE} belongs to another process"):
                await remove_leftovers(SERVICE.vip)
            assert host.ruleset() == before
            assert await first.repair() == ()

    asyncio.run(scenario())


def test_a_killed_daemons_tables_stay_and_are_anybodys(host: Host) -> None:
    killed_after([*owning(1), ("arm", ()), ("promote", ())])
    assert listed(host) == Listed(frozenset({1}), frozenset({1}), leased=True)
    host.run(*FLUSH)
    assert host.ruleset() == ""


def test_tables_that_a_daemon_without_guard_left_are_adopted_and_guarded_once_they_are_gone(
    host: Host,
) -> None:
    killed_after(owning(1), guard=False)

    async def scenario() -> None:
        async with opened() as dataplane:
            assert await dataplane.owned() == {1}
            noticed = asyncio.create_task(dataplane.disturbed())
            await asyncio.sleep(0)
            host.run(*FLUSH)
            await asyncio.wait_for(noticed, PATIENCE_S)
            assert await dataplane.repair() == (RULES,)
            host.run(*FLUSH)
            assert listed(host).owned == {1}

    asyncio.run(scenario())


def test_a_loaded_move_survives_what_others_take_away(host: Host) -> None:
    async def scenario() -> None:
        async with opened(guard=False) as dataplane:
            await hand_over(dataplane, {1, 2})
            await dataplane.stage(Move(frozenset({3}), frozenset({2})))
            await dataplane.commit(Commit.RELEASE)
            host.run(*FLUSH)
            await dataplane.repair()
            assert listed(host) == Listed(frozenset({1}), frozenset({1, 2, 3}), leased=False)
            await dataplane.commit(Commit.ACQUIRE)
            assert await dataplane.owned() == {1, 3}

    asyncio.run(scenario())


def test_a_lease_that_was_armed_before_the_rules_went_is_not_promoted_after(host: Host) -> None:
    async def scenario() -> None:
        async with opened(guard=False) as dataplane:
            await dataplane.arm()
            host.run(*FLUSH)
            await dataplane.repair()
            with pytest.raises(DataplaneError, match="no armed timer"):
                await dataplane.promote()
            assert not listed(host).leased

    asyncio.run(scenario())


def test_calls_on_rules_that_are_gone_say_so_and_work_again_after_a_repair(host: Host) -> None:
    async def scenario() -> None:
        async with opened(guard=False) as dataplane:
            host.run(*FLUSH)
            move = Move(frozenset({4}), NOTHING)
            for call in (
                dataplane.stage(move),
                dataplane.arm(),
                dataplane.drop(),
                dataplane.owned(),
                dataplane.kept(),
            ):
                with pytest.raises(DataplaneError, match=TABLE):
                    await call
            await dataplane.repair()
            await hand_over(dataplane, {4})
            assert await dataplane.owned() == {4}

    asyncio.run(scenario())


def test_rules_that_vanish_while_they_are_installed_are_not_taken_for_complete(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program's flush fell between the installation and its reading.

    The empty reading was remembered, and none ever differed from it.
    """

    async def scenario() -> None:
        async with opened(guard=False) as dataplane:
            await hand_over(dataplane, {2})
            before = host.ruleset()
            read = reader.TableReader.structure

            def read_behind_a_flush(dump: reader.TableReader, family: str) -> bytes:
                host.run(*FLUSH)
                return read(dump, family)

            with monkeypatch.context() as patch:
                patch.setattr(reader.TableReader, "structure", read_behind_a_flush)
                with pytest.raises(DataplaneError, match="another program removes them at once"):
                    await dataplane.repair()
            await dataplane.repair()
            assert host.ruleset() == before

    asyncio.run(scenario())
