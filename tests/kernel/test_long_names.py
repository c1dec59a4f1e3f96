"""The VIP on interfaces whose names are too long for a mark in the address label."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from maglev0.core.service import Service
from tests.kernel.conftest import Host
from tests.kernel.nft import SERVICE, killed_after, opened, owning
from tests.support.one_host import INTERFACE

pytestmark = pytest.mark.kernel

# A name of at most 13 characters leaves room for a colon and one character of the mark.
NAMES = ["enx0c37966f8", "enx0c37966f8a", "enx0c37966f8ab", "enx0c37966f8ab1"]
ADDRESS = f"{SERVICE.vip}/32"


@pytest.fixture(params=NAMES, ids=lambda name: f"{len(name)} characters")
def service(host: Host, request: pytest.FixtureRequest) -> Service:
    name: str = request.param
    host.run("ip", "link", "set", INTERFACE, "down")
    host.run("ip", "link", "set", INTERFACE, "name", name)
    host.run("ip", "link", "set", name, "up")
    return replace(SERVICE, interface=name)


def addresses(host: Host, service: Service) -> str:
    return host.run("ip", "-brief", "address", "show", "dev", service.interface)


async def come_and_go(host: Host, service: Service) -> None:
    async with opened(service):
        assert ADDRESS in addresses(host, service)


def test_the_address_is_gone_after_a_stop(host: Host, service: Service) -> None:
    asyncio.run(come_and_go(host, service))
    assert ADDRESS not in addresses(host, service)


def test_the_address_that_a_killed_daemon_left_is_gone_after_the_next_stop(
    host: Host, service: Service
) -> None:
    killed_after(owning(1), service=service)
    assert ADDRESS in addresses(host, service)
    asyncio.run(come_and_go(host, service))
    assert ADDRESS not in addresses(host, service)


def test_an_address_that_was_there_stays(host: Host, service: Service) -> None:
    host.run("ip", "address", "add", ADDRESS, "dev", service.interface)
    killed_after(owning(1), service=service)
    asyncio.run(come_and_go(host, service))
    assert ADDRESS in addresses(host, service)


def test_an_address_that_is_added_after_a_stop_stays(host: Host, service: Service) -> None:
    asyncio.run(come_and_go(host, service))
    host.run("ip", "address", "add", ADDRESS, "dev", service.interface)
    asyncio.run(come_and_go(host, service))
    assert ADDRESS in addresses(host, service)
