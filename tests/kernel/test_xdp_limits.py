"""Where the XDP filter cannot run, what follows, and what the filter counts."""

from __future__ import annotations

import asyncio
import logging
import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from maglev0.core.service import Xdp
from maglev0.dataplane.xdp import libbpf, maps, pins
from tests.kernel.xdp import (
    SECOND,
    SERVICE,
    Program,
    Rules,
    attached,
    opened,
    run,
    served,
)
from tests.support.one_host import INTERFACE

pytestmark = pytest.mark.kernel


def test_jumbo_frames_are_no_obstacle(bpf: Path) -> None:
    async def scenario() -> None:
        run("ip", "link", "set", "dev", INTERFACE, "mtu", "9000")
        async with opened(owned=(1,)):
            assert attached() == "xdp"
            assert served(bpf) == {SERVICE.vip.packed}

    asyncio.run(scenario())


@dataclass(frozen=True)
class Obstacle:
    """What keeps the program off.

    A variable of the environment or of the module that points nowhere.
    """

    reason: str
    mounted: bool = True
    built: bool = True
    library: bool = True


OBSTACLES = {
    "no BPF file system": Obstacle("no BPF file system on ", mounted=False),
    "built without clang": Obstacle(
        "this installation has no XDP program: clang was missing when it was built; ", built=False
    ),
    "no libbpf": Obstacle("libnowhere.so.1 is missing; apt install libbpf1", library=False),
}


@pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES)
@pytest.mark.parametrize(
    ("wish", "level"), [(Xdp.AUTO, logging.INFO), (Xdp.NATIVE, logging.WARNING)]
)
def test_where_it_cannot_run_one_line_says_why_and_nftables_serves(
    bpf: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    obstacle: Obstacle,
    wish: Xdp,
    level: int,
) -> None:
    caplog.set_level(logging.INFO)
    if not obstacle.mounted:
        monkeypatch.setenv("MAGLEV0_BPFFS", "/nowhere")
    if not obstacle.built:
        monkeypatch.setattr(pins, "_OBJECT", Path("/nowhere"))
    if not obstacle.library:
        monkeypatch.setattr(libbpf, "_LIBRARY", "libnowhere.so.1")
        monkeypatch.setattr(libbpf, "_loaded", libbpf._loaded.__wrapped__)
    (bpf / "maglev0").mkdir()  # as the service unit leaves it

    async def scenario() -> None:
        async with opened(xdp=wish, owned=(1,)) as dataplane:
            assert await dataplane.owned() == {1}
            assert await dataplane.repair() == ()

    asyncio.run(scenario())
    (said,) = [record for record in caplog.records if "no XDP" in record.message]
    assert said.levelno == level
    assert said.message.startswith(
        f"no XDP filter on eth0, nftables alone refuses foreign packets: {obstacle.reason}"
    )


def test_a_driver_that_cannot_is_told(bpf: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        run("ip", "link", "add", "link", INTERFACE, "name", "driverless", "type", "macvlan")
        run("ip", "link", "set", "driverless", "up")
        async with opened(replace(SERVICE, interface="driverless")):
            assert not served(bpf)

    asyncio.run(scenario())
    assert (
        "no XDP filter on driverless, nftables alone refuses foreign packets: attaching XDP: "
        in caplog.text
    )


def test_it_counts_what_it_passes_and_drops(bpf: Path) -> None:
    async def scenario() -> None:
        async with opened(owned=range(1, 126)) as dataplane:
            program = Program(bpf)
            rules = Rules(SERVICE, frozenset(range(1, 126)))
            frames = [udp(IPv4Address(number)) for number in range(0x0B000000, 0x0B000000 + 100)]
            dropped = sum(program.drops(frame) for frame in frames)
            program.close()
            assert 0 < dropped == sum(rules.drop(frame) for frame in frames) < 100
            passed = maps.Counter(100 - dropped, (100 - dropped) * 46)
            assert dataplane._xdp_filter.counters() == maps.XdpCounters(
                passed, maps.Counter(dropped, dropped * 46)
            )

    asyncio.run(scenario())


def test_an_address_that_comes_counts_from_zero(bpf: Path) -> None:
    async def scenario() -> None:
        async with opened(SECOND) as second:
            async with opened(owned=(1,)):
                program = Program(bpf)
                program.drops(udp(IPv4Address("192.0.2.9")))
            async with opened() as again:
                assert again._xdp_filter.counters() == maps.XdpCounters(
                    maps.Counter(0, 0), maps.Counter(0, 0)
                )
            program.close()
            assert second._xdp_filter.counters() == maps.XdpCounters(
                maps.Counter(0, 0), maps.Counter(0, 0)
            )

    asyncio.run(scenario())


def udp(source: IPv4Address) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 46, 0, 0, 64, 17, 0, source.packed, SERVICE.vip.packed
    )
    return (bytes(12) + b"\x08\x00" + head).ljust(60, b"\0")
