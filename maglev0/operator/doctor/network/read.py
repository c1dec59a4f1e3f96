"""Reads the traffic interface, the VIP's places, routes and sysctls, by netlink and from /proc."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from maglev0.dataplane.host.interface import LOOPBACK, Interface
from maglev0.dataplane.host.link import find_link
from maglev0.dataplane.netlink.route import asking
from maglev0.errors import DataplaneError
from maglev0.operator.doctor.machine import read as machine
from maglev0.operator.doctor.network.judge import DEFAULT, NetworkReading, Route

MAX_ROUTES = 64  # the widest; a router has thousands
_UP = 0x1 | 0x10000  # IFF_UP, IFF_LOWER_UP of netdevice(7)
_HEARS_ALL = 0x100 | 0x200  # IFF_PROMISC, IFF_ALLMULTI
# RT_TABLE_MAIN, RTN_UNICAST, RT_SCOPE_LINK of linux/rtnetlink.h
_MAIN, _UNICAST, _SCOPE_LINK = 254, 1, 253
_DEV_MCAST = Path("/proc/thread-self/net/dev_mcast")
_IGMP = Path("/proc/thread-self/net/igmp")
# Masters at which the packets of their members arrive, unlike those of a VRF.
_TAKES_ALL = {"bridge", "bond", "team", "openvswitch"}
_SETTINGS = ("rp_filter", "arp_ignore", "arp_filter", "proxy_arp", "drop_unicast_in_l2_multicast")


class _Links(NamedTuple):
    """All links, by index."""

    found: dict[int, Any]

    def name(self, index: int | None) -> str:
        link = self.found.get(index or 0)
        return "" if link is None else str(link.get_attr("IFLA_IFNAME"))

    def number(self, name: str) -> int:
        for index in self.found:
            if self.name(index) == name:
                return index
        raise DataplaneError(f"interface {name} disappeared while it was examined")


async def read(
    vip: IPv4Address, interface: Interface, cluster_mac: str, *, rules: bool | None
) -> NetworkReading:
    """Read everything once; DataplaneError if the kernel does not answer."""
    async with asking("addresses and routes") as netlink:
        links = _Links({int(link["index"]): link async for link in await netlink.get_links()})
        addresses = [address async for address in await netlink.get_addr(family=socket.AF_INET)]
        index = links.number(interface.name)
        holders = tuple(
            dict.fromkeys(
                links.name(int(one["index"]))
                for one in addresses
                if one.get_attr("IFA_LOCAL") == str(vip)
            )
        )
        routes = await _routes(netlink, links, index, vip if holders else _own(interface))
    master, stacked = await _sharers(links, index, interface.name)
    flags = links.found[index]["flags"]
    return NetworkReading(
        interface=interface,
        up=flags & _UP == _UP,
        master=master,
        stacked=stacked,
        hears_all=bool(flags & _HEARS_ALL),
        has_mac=_listens(interface.name, cluster_mac),
        holders=holders,
        rules=rules,
        groups=_groups(interface.name),
        settings=_settings(interface.name),
        routes=tuple(routes),
    )


def _own(interface: Interface) -> IPv4Address | None:
    return IPv4Address(interface.address) if interface.address else None


async def _sharers(links: _Links, index: int, name: str) -> tuple[str, str]:
    """The master that takes the interface's packets, and a device that shares them; "" if none."""
    master = links.found[index].get_attr("IFLA_MASTER")
    information = links.found[master].get_attr("IFLA_LINKINFO") if master in links.found else None
    if information is not None and information.get_attr("IFLA_INFO_KIND") in _TAKES_ALL:
        return links.name(master), ""
    sharer = (await find_link(name)).sharer or ""
    return "", "" if sharer == links.name(master) else sharer


async def _routes(
    netlink: AsyncIPRoute, links: _Links, index: int, target: IPv4Address | None
) -> list[Route]:
    """What the kernel does with clients of each route in the main table.

    `target` is an address of this host, to which their packets go.
    """
    found: dict[IPv4Network, bool] = {}
    async for route in await netlink.get_routes(family=socket.AF_INET, table=_MAIN):
        if route["type"] == _UNICAST and links.name(route.get_attr("RTA_OIF")) != LOOPBACK:
            network = IPv4Network(
                f"{route.get_attr('RTA_DST') or IPv4Address(0)}/{route['dst_len']}"
            )
            found.setdefault(
                network, route["scope"] == _SCOPE_LINK and route.get_attr("RTA_GATEWAY") is None
            )
    widest = sorted(found, key=lambda network: (network.prefixlen, network))[:MAX_ROUTES]
    return [
        await _route(netlink, links, index, target, network, connected=found[network])
        for network in widest
    ]


async def _route(
    netlink: AsyncIPRoute,
    links: _Links,
    index: int,
    target: IPv4Address | None,
    network: IPv4Network,
    *,
    connected: bool,
) -> Route:
    client = str(_someone(network, target))
    out = await _get(netlink, dst=client)
    # The kernel treats this as a packet that arrives, the reverse path filter included
    # (inet_rtm_getroute, net/ipv4/route.c).
    into = None if target is None else await _get(netlink, dst=str(target), src=client, iif=index)
    return Route(
        network=str(network),
        connected=connected,
        accepted=None if target is None else into is not None,
        leaves_by="" if out is None else links.name(out.get_attr("RTA_OIF")),
        source="" if out is None else str(out.get_attr("RTA_PREFSRC") or ""),
    )


def _someone(network: IPv4Network, target: IPv4Address | None) -> IPv4Address:
    """An address that belongs to a route: its last, or the first if the last is `target`.

    For the default route it is one that no other route should cover.
    """
    if str(network) == DEFAULT:
        return IPv4Address("192.0.2.254")  # from a documentation network (RFC 5737)
    last = network[-2] if network.num_addresses > 2 else network[-1]
    return network[1] if last == target else last


async def _get(netlink: AsyncIPRoute, **asked: Any) -> Any:
    try:
        return next(iter(tuple(await netlink.route("get", **asked))), None)
    except NetlinkError:
        return None


def _settings(name: str) -> dict[str, int]:
    """The sysctls in force: the greater of "all" and the interface's own value.

    The kernel combines them so (IN_DEV_MAXCONF, IN_DEV_ORCONF of linux/inetdevice.h).
    """
    ipv4 = machine.SYSCTL / "ipv4"
    found = {}
    for setting in _SETTINGS:
        values = [machine.number(ipv4 / "conf" / scope / setting) for scope in ("all", name)]
        found[setting] = max(value or 0 for value in values)
    found["icmp_echo_ignore_all"] = machine.number(ipv4 / "icmp_echo_ignore_all") or 0
    return found


def _listens(name: str, mac: str) -> bool:
    """Whether the interface listens for that MAC, for a daemon or for the kernel's CLUSTERIP.

    The columns of dev_mcast: index, name, users, global users, address.
    """
    try:
        rows = [line.split() for line in _DEV_MCAST.read_text("ascii").splitlines()]
    except OSError as error:
        raise DataplaneError(f"reading {_DEV_MCAST}: {error.strerror}") from error
    return any(row[1] == name and row[4] == mac.replace(":", "") for row in rows)


def _groups(name: str) -> frozenset[str]:
    """The MACs of the IPv4 groups joined on the interface (RFC 1112, 6.4).

    /proc/net/igmp has the groups as little-endian words in hexadecimal.
    """
    try:
        lines = _IGMP.read_text("ascii").splitlines()[1:]
    except OSError:
        return frozenset()
    found, here = set(), False
    for line in lines:
        words = line.split()
        if not line.startswith("\t"):
            here = words[1].rstrip(":") == name
        elif here:
            group = socket.ntohl(int(words[0], 16)) & 0x7FFFFF
            found.add(":".join(f"{byte:02x}" for byte in (1, 0, 0x5E, *group.to_bytes(3))))
    return frozenset(found)
