"""Finds where the VIP's traffic arrives: the named interface, or the one in the kernel's tables."""

from __future__ import annotations

from ipaddress import IPv4Address
from socket import AF_INET
from typing import Any, NamedTuple

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from maglev0.errors import DataplaneError, UnavailableError

LOOPBACK = "lo"


class Interface(NamedTuple):
    """The traffic interface; `address` is its first IPv4 address besides the VIP, or empty."""

    name: str
    mac: str
    address: str


async def find(vip: IPv4Address, wanted: str | None) -> Interface:
    """Return the interface called `wanted`, or without a name the one with the VIP or its route.

    Raises UnavailableError when there is none now (it may come later), DataplaneError when the
    kernel does not answer.
    """
    try:
        return await _found(vip, wanted)
    except (NetlinkError, OSError) as error:
        raise DataplaneError(f"asking the kernel for interfaces: {error.args[-1]}") from error


async def _found(vip: IPv4Address, wanted: str | None) -> Interface:
    async with AsyncIPRoute() as netlink:
        links = {link["index"]: link async for link in await netlink.get_links()}
        addresses = [address async for address in await netlink.get_addr(family=AF_INET)]
        names = {link.get_attr("IFLA_IFNAME"): index for index, link in links.items()}
        index = names.get(wanted) if wanted else await _leading_to(netlink, vip, addresses)
    if index is None or index not in links or (not wanted and names.get(LOOPBACK) == index):
        raise _not_found(vip, wanted, sorted(names))
    own = [text for text, at in map(_held, addresses) if at == index and text != str(vip)]
    return Interface(
        links[index].get_attr("IFLA_IFNAME"),
        links[index].get_attr("IFLA_ADDRESS") or "",
        own[0] if own else "",
    )


async def _leading_to(netlink: AsyncIPRoute, vip: IPv4Address, addresses: list[Any]) -> int | None:
    holders = [index for text, index in map(_held, addresses) if text == str(vip)]
    if holders:
        return holders[0]
    try:
        routes = await netlink.route("get", dst=str(vip))
    except NetlinkError:
        return None
    return next((int(route.get_attr("RTA_OIF")) for route in routes), None)


def _held(address: Any) -> tuple[str, int]:
    return str(address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")), int(
        address["index"]
    )


def _not_found(vip: IPv4Address, wanted: str | None, names: list[str]) -> UnavailableError:
    present = ", ".join(name for name in names if name != LOOPBACK) or "none"
    if wanted:
        return UnavailableError(
            f"--interface={wanted}: no such interface; this machine has: {present}"
        )
    return UnavailableError(
        f"--interface left out: no interface holds {vip} and no route but the loopback leads "
        f"there; name one of: {present}"
    )
