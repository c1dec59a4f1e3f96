"""The nftables dataplane on interfaces that go down, vanish or get another name."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from maglev0.errors import DataplaneError
from tests.kernel.conftest import Host
from tests.kernel.nft import (
    SERVICE,
    killed_after,
    opened,
    owning,
)
from tests.support.one_host import CABLE, INTERFACE
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.kernel


def test_a_link_that_is_down_cannot_serve_until_it_is_up(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            noticed = asyncio.create_task(dataplane.disturbed())
            await asyncio.sleep(0)
            await asyncio.to_thread(host.network.pull, CABLE)  # pyroute2 runs a loop of its own
            await asyncio.wait_for(noticed, PATIENCE_S)
            with pytest.raises(DataplaneError, match="eth0 is down or without a carrier"):
                await dataplane.repair()
            await asyncio.to_thread(host.network.push, CABLE)  # pyroute2 runs a loop of its own
            await dataplane.repair()

    asyncio.run(scenario())


def test_an_interface_that_vanishes_is_named_and_close_still_cleans(host: Host) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            await asyncio.to_thread(host.network.remove, CABLE)  # pyroute2 runs a loop of its own
            with pytest.raises(DataplaneError, match="interface eth0 is gone"):
                await dataplane.repair()

    asyncio.run(scenario())
    assert host.ruleset() == ""


def test_an_interface_that_is_renamed_takes_the_address_down_until_its_name_is_back(
    host: Host,
) -> None:
    async def scenario() -> None:
        async with opened() as dataplane:
            host.run("ip", "link", "set", INTERFACE, "name", "eth9")
            with pytest.raises(DataplaneError, match="interface eth0 is gone"):
                await dataplane.repair()
            assert "198.51.100.1" not in host.run("ip", "address")
            host.run("ip", "link", "set", "eth9", "name", INTERFACE)
            assert "the address 198.51.100.1" in await dataplane.repair()

    asyncio.run(scenario())


def test_our_address_moves_to_the_interface_that_serves_now(host: Host) -> None:
    host.run("ip", "link", "add", "eth1", "up", "type", "veth", "peer", "name", "far")
    host.run("ip", "link", "set", "far", "up")
    killed_after(owning(1))

    async def scenario() -> None:
        async with opened(replace(SERVICE, interface="eth1")):
            assert "198.51.100.1" not in host.addresses()
            assert "198.51.100.1/32" in host.run("ip", "-brief", "address", "show", "dev", "eth1")

    asyncio.run(scenario())
    assert "198.51.100.1" not in host.run("ip", "address")


def test_an_address_that_others_put_on_another_interface_is_refused(host: Host) -> None:
    host.run("ip", "link", "add", "eth1", "up", "type", "veth", "peer", "name", "far")
    host.run("ip", "address", "add", "198.51.100.1/32", "dev", "eth1")

    async def scenario() -> None:
        with pytest.raises(
            DataplaneError, match=r"another interface than eth0 holds 198\.51\.100\.1"
        ):
            async with opened():
                pass

    asyncio.run(scenario())
    assert "198.51.100.1/32" in host.run("ip", "-brief", "address", "show", "dev", "eth1")
    assert host.ruleset() == ""


def test_an_address_on_the_loopback_serves_as_well(host: Host) -> None:
    host.run("ip", "address", "add", "198.51.100.1/32", "dev", "lo")

    async def scenario() -> None:
        async with opened():
            assert "198.51.100.1" not in host.addresses()

    asyncio.run(scenario())
    assert "198.51.100.1/32" in host.run("ip", "-brief", "address", "show", "dev", "lo")
