from __future__ import annotations

import asyncio
import logging
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from maglev0.core.service import Service, Xdp
from maglev0.core.transition import Move
from maglev0.dataplane.xdp import filter as front
from maglev0.dataplane.xdp import maps, pins
from maglev0.dataplane.xdp.libbpf import Bpf
from tests.kernel.nft import hand_over
from tests.kernel.xdp import (
    SECOND,
    SERVICE,
    SOURCE,
    admitted,
    attached,
    ifindex,
    opened,
    places,
    planted,
    run,
    served,
)
from tests.support.one_host import INTERFACE

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("wish", "shown"),
    [(Xdp.AUTO, "xdp"), (Xdp.NATIVE, "xdp"), (Xdp.GENERIC, "xdpgeneric"), (Xdp.OFF, "")],
)
def test_it_stands_while_the_dataplane_does(bpf: Path, wish: Xdp, shown: str) -> None:
    async def scenario() -> None:
        async with opened(xdp=wish):
            assert attached() == shown
        assert attached() == ""
        assert not places(bpf)

    asyncio.run(scenario())


def test_its_bits_are_at_any_time_what_nftables_admits(bpf: Path) -> None:
    async def scenario() -> None:
        async with opened(owned=(1, 2, 64, 65, 251)) as dataplane:
            assert admitted(bpf) == {1, 2, 64, 65, 251}
            await dataplane.stage(Move(frozenset({3}), frozenset({1})))
            assert admitted(bpf) == {1, 2, 3, 64, 65, 251}
            await hand_over(dataplane, (3,), (1,))
            assert admitted(bpf) == {1, 2, 3, 64, 65, 251}  # connections may be kept in 1
            await dataplane.unpin(frozenset({1, 2}))
            assert admitted(bpf) == {2, 3, 64, 65, 251}  # 2 is in force

    asyncio.run(scenario())


def test_it_admits_before_nftables_does_and_refuses_after(
    bpf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(owned=range(1, 100)) as dataplane:
            seen: list[bool] = []
            tables, write = dataplane._tables, dataplane._tables.run

            def watched(*messages: object) -> None:
                seen.append(admitted(bpf) >= dataplane._buckets.admitted)
                write(*messages)  # type: ignore[arg-type]
                seen.append(admitted(bpf) >= dataplane._buckets.admitted)

            with monkeypatch.context() as watching:
                watching.setattr(tables, "run", watched)
                await hand_over(dataplane, range(100, 200), range(1, 50))
                await dataplane.unpin(frozenset(range(1, 50)))
            assert admitted(bpf) == dataplane._buckets.admitted == set(range(50, 200))
            assert all(seen)

    asyncio.run(scenario())


def test_all_services_of_an_interface_share_one_program_and_the_last_detaches(bpf: Path) -> None:
    async def scenario() -> None:
        async with opened(owned=(1,)):
            async with opened(SECOND, owned=(2, 3)):
                assert served(bpf) == {SERVICE.vip.packed, SECOND.vip.packed}
                assert (admitted(bpf, 0), admitted(bpf, 1)) == ({1}, {2, 3})
            assert served(bpf) == {SERVICE.vip.packed}
            assert attached() == "xdp"
        assert attached() == ""

    asyncio.run(scenario())


def test_an_interface_serves_so_many_and_no_more(
    bpf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        shared = [
            front.XdpFilter(replace(SERVICE, vip=IPv4Address(f"198.51.100.{number}")), Xdp.NATIVE)
            for number in range(1, maps.MAX_VIPS + 2)
        ]
        for one in shared:
            one.open(ifindex(), None, frozenset())
        assert len(served(bpf)) == maps.MAX_VIPS
        for one in shared:
            one.close()

    asyncio.run(scenario())
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        (
            "no XDP filter on eth0, nftables alone refuses foreign packets: "
            "the program on the interface already serves 32 addresses, its limit"
        )
    ]


def foreign_program(bpf: Path) -> None:
    (bpf / "theirs").mkdir()
    Bpf().install(
        (SOURCE.parent / "early.bpf.o").read_bytes(), pins.PROGRAM, pins.MAPS, bpf / "theirs"
    )
    run("ip", "link", "set", "dev", INTERFACE, "xdp", "pinned", str(bpf / "theirs" / pins.PROGRAM))


def test_a_foreign_program_is_left_alone_and_said_so(
    bpf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        foreign_program(bpf)
        before = run("ip", "-d", "link", "show", "dev", INTERFACE)
        async with opened(owned=(1,)) as dataplane:
            assert await dataplane.owned() == {1}
            assert await dataplane.repair() == ()
        assert run("ip", "-d", "link", "show", "dev", INTERFACE) == before

    asyncio.run(scenario())
    (said,) = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert (
        said == "no XDP filter on eth0, nftables alone refuses foreign packets: "
        "another XDP program is attached, and stays"
    )


DOOMED = """
import asyncio, os, pickle, signal, sys
from maglev0.core.transition import Move
from maglev0.protocol.ports.gate import Commit
from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.core.service import Xdp

async def main(service, owned):
    dataplane = Nftables(service, 60_000, xdp=Xdp.NATIVE)
    await dataplane.open()
    await dataplane.stage(Move(frozenset(owned), frozenset()))
    for step in Commit:
        await dataplane.commit(step)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*pickle.load(sys.stdin.buffer)))
"""


def killed_with(service: Service, *owned: int) -> None:
    """A daemon served the service and was killed."""
    ended = subprocess.run(
        [sys.executable, "-c", DOOMED], input=pickle.dumps((service, owned)), check=False
    )
    assert ended.returncode == -signal.SIGKILL


def program_id() -> str:
    return run("ip", "-d", "link", "show", "dev", INTERFACE).partition("prog/xdp id ")[2].split()[0]


def test_what_a_killed_daemon_left_goes_on_and_is_adopted(bpf: Path) -> None:
    async def scenario() -> None:
        killed_with(SERVICE, 5, 6)
        before = program_id()
        assert admitted(bpf) == {5, 6}
        async with opened() as dataplane:
            assert program_id() == before
            assert await dataplane.owned() == {5, 6}
            assert admitted(bpf) == {5, 6}
        assert attached() == ""

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "service", [SERVICE, replace(SERVICE, hash_seed=8)], ids=["the same", "hashed another way"]
)
def test_left_without_a_daemon_to_follow_it_judges_no_more(bpf: Path, service: Service) -> None:
    async def scenario() -> None:
        killed_with(SERVICE, 5)
        async with opened(service, xdp=Xdp.OFF):
            assert attached() == ""
            assert not served(bpf)

    asyncio.run(scenario())


def test_other_settings_give_the_bits_another_meaning(bpf: Path) -> None:
    async def scenario() -> None:
        killed_with(SERVICE, 5)
        async with opened(replace(SERVICE, hash_seed=8), owned=(9,)):
            assert admitted(bpf) == {9}

    asyncio.run(scenario())


def test_another_versions_program_is_replaced_where_it_serves_nobody_else(
    bpf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        killed_with(SERVICE, 5)
        before = program_id()
        planted(tmp_path, monkeypatch, "0x3fff", "0x7fff")
        async with opened():
            assert program_id() != before
            assert admitted(bpf) == {5}
        assert attached() == ""

    asyncio.run(scenario())


def test_another_versions_program_stays_where_it_serves_others(
    bpf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        killed_with(SERVICE, 5)
        async with opened(SECOND, owned=(1,)):
            planted(tmp_path, monkeypatch, "0x3fff", "0x7fff")
            async with opened() as dataplane:
                assert await dataplane.owned() == {5}
                assert served(bpf) == {SECOND.vip.packed}

    asyncio.run(scenario())
    assert "another version of maglev0 serves other addresses there" in caplog.text


def test_what_others_take_away_is_brought_back(bpf: Path) -> None:
    async def scenario() -> None:
        async with opened(owned=(7,)) as dataplane:
            Bpf().detach(places(bpf)[0] / "link")
            assert attached() == ""
            assert await dataplane.repair() == ("the XDP program on eth0",)
            assert attached() == "xdp"
            assert admitted(bpf) == {7}
            assert await dataplane.repair() == ()

    asyncio.run(scenario())


def test_a_device_that_shares_the_interface_keeps_it_off_and_the_rules_in_prerouting(
    bpf: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with opened(owned=(7,)) as dataplane:
            assert "hook ingress" in run("nft", "-t", "list", "ruleset")
            run("ip", "link", "add", "link", INTERFACE, "name", "stacked", "type", "macvlan")
            assert await dataplane.repair() == ("the nftables rules",)
            assert attached() == ""
            assert not served(bpf)
            assert "hook ingress" not in run("nft", "-t", "list", "ruleset")
            assert await dataplane.owned() == {7}
            run("ip", "link", "del", "stacked")
            assert await dataplane.repair() == ("the nftables rules",)
            assert "hook ingress" in run("nft", "-t", "list", "ruleset")

    asyncio.run(scenario())
    assert (
        "stacked shares the interface's packets, which our rules do not judge there" in caplog.text
    )
