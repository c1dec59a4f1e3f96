"""The traffic interface and the VIP's address on this host, by netlink; and the cluster MAC on the interface's receive filter."""

from __future__ import annotations

import fcntl
import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from maglev0.errors import DataplaneError

log = logging.getLogger(__name__)

_LINK_UP = 0x1 | 0x10000  # IFF_UP and IFF_LOWER_UP of netdevice(7): switched on, and with a carrier
_MARK = "maglev0"
_LOOPBACK = 1  # the index of lo in every network namespace
_LABEL_MAX = 15  # IFNAMSIZ less the final zero
_SIOCADDMULTI = 0x8931  # include/uapi/linux/sockios.h
_SIOCDELMULTI = 0x8932
_IFREQ_HWADDR = struct.Struct(
    "16sH6s16x"
)  # struct ifreq of netdevice(7): name, ifr_hwaddr's family (AF_UNSPEC), its address
_ETH_P_ARP = 0x0806
_ARP_REQUEST = struct.pack(
    "!HHBBH", 1, 0x0800, 6, 4, 1
)  # Ethernet, IPv4, the lengths of their addresses, request (RFC 826)
# Not /proc/net: that leads to the namespace of the process's first thread, while sockets are of the calling thread's.
_DEV_MCAST = Path("/proc/thread-self/net/dev_mcast")


@asynccontextmanager
async def asking(what: str = "links and addresses") -> AsyncIterator[AsyncIPRoute]:
    """Ask the kernel for `what`; what it refuses is a `DataplaneError`."""
    try:
        async with AsyncIPRoute() as netlink:
            yield netlink
    except (NetlinkError, OSError) as error:
        raise DataplaneError(f"asking the kernel for {what}: {error.args[-1]}") from error


class LinkDownError(DataplaneError):
    """The traffic interface is there, but no packet can arrive on it."""


class Link(NamedTuple):
    """An interface, and the name of a device that shares its packets: one stacked on it (a VLAN, say) or one that it belongs to (a bridge)."""

    name: str
    ifindex: int
    up: bool
    sharer: str | None

    def require_up(self) -> None:
        """LinkDownError when it is switched off or without a carrier."""
        if not self.up:
            raise LinkDownError(
                f"interface {self.name} is down or without a carrier; it serves again when the link is up"
            )


async def find_link(interface: str) -> Link:
    """Find the interface; DataplaneError when it is gone."""
    async with asking() as netlink:
        links = [link async for link in await netlink.get_links()]
    found = [link for link in links if link.get_attr("IFLA_IFNAME") == interface]
    if not found:
        raise DataplaneError(f"interface {interface} is gone; it serves again when it is back")
    return Link(
        interface,
        int(found[0]["index"]),
        found[0]["flags"] & _LINK_UP == _LINK_UP,
        _sharer(found[0], links),
    )


async def serving_link(interface: str) -> Link:
    """The same; LinkDownError when no packet can arrive there."""
    link = await find_link(interface)
    link.require_up()
    return link


def _sharer(link: Any, links: list[Any]) -> str | None:
    master = link.get_attr("IFLA_MASTER")
    for other in links:
        # The other end of a veth names this one in the same attribute; a device of another namespace bears that namespace's id.
        stacked = (
            other.get_attr("IFLA_LINK") == link["index"]
            and other.get_attr("IFLA_LINK_NETNSID") is None
            and _kind(other) != "veth"
        )
        if other["index"] == master or (stacked and other["index"] != link["index"]):
            return str(other.get_attr("IFLA_IFNAME"))
    return None


def _kind(link: Any) -> str | None:
    information = link.get_attr("IFLA_LINKINFO")
    return None if information is None else information.get_attr("IFLA_INFO_KIND")


async def has_address(vip: IPv4Address) -> bool:
    """Whether any interface of this host holds the VIP."""
    async with asking() as netlink:
        return bool(await _holders(netlink, vip))


async def has_our_address(vip: IPv4Address) -> bool:
    """Whether the VIP stands on this host by `place_address`, of this process or of one before it."""
    async with asking() as netlink:
        return any(_is_ours(address) for address in await _holders(netlink, vip))


async def place_address(interface: str, index: int, vip: IPv4Address) -> bool:
    """See that the host holds the VIP on this interface (or on the loopback), and return whether it had to be put there.

    It bears a label by which a daemon knows it again after any crash; one of ours on another interface, left when the interface was
    another, is moved. DataplaneError when others put it elsewhere: what arrives there nobody would judge.
    """
    async with asking() as netlink:
        found = {int(address["index"]): address for address in await _holders(netlink, vip)}
        for elsewhere, address in found.items():
            if elsewhere in (index, _LOOPBACK):
                continue
            if not _is_ours(address):
                raise DataplaneError(
                    f"{vip} stands on another interface than {interface}: remove it there, or name that one by --interface"
                )
            await _change_address(netlink, "del", elsewhere, vip)
        if found.keys() & {index, _LOOPBACK}:
            return False
        await _change_address(netlink, "add", index, vip, label=_label(interface))
        return True


async def warn_of_found_address(vip: IPv4Address) -> None:
    """Tell the operator, at the start, what an address that others put up means for the time after."""
    if await has_address(vip) and not await has_our_address(vip):
        log.warning(
            "the address %s was here before and will stay: once maglev0 has left, this host answers for every node number",
            vip,
        )


async def remove_our_address(vip: IPv4Address) -> None:
    """Take the VIP off where `place_address` put it; one that others put up stays."""
    async with asking() as netlink:
        for address in await _holders(netlink, vip):
            if _is_ours(address):
                await _change_address(netlink, "del", int(address["index"]), vip)


async def _holders(netlink: AsyncIPRoute, vip: IPv4Address) -> list[Any]:
    # Older kernels list every address whatever filter they are asked for, so the comparison is made here.
    addresses = [address async for address in await netlink.get_addr(family=socket.AF_INET)]
    return [address for address in addresses if address.get_attr("IFA_LOCAL") == str(vip)]


async def _change_address(
    netlink: AsyncIPRoute, verb: str, index: int, vip: IPv4Address, **more: str
) -> None:
    try:
        await netlink.addr(verb, index=index, address=str(vip), prefixlen=32, **more)
    except NetlinkError as error:
        raise DataplaneError(f"ip address {verb} {vip}/32: {error.args[1]}") from error


def _label(interface: str) -> str:
    # What stands before the colon is the device to ifconfig. Names of 14 and 15 characters leave no room for the mark:
    # there the address of a killed daemon is taken for one that was found.
    return f"{interface}:{_MARK}"[:_LABEL_MAX]


def _is_ours(address: Any) -> bool:
    mark = str(address.get_attr("IFA_LABEL") or "").partition(":")[2]
    return bool(mark) and _MARK.startswith(mark)


def has_multicast(interface: str, mac: str) -> bool:
    """Whether somebody asked the interface to receive that MAC, as ``ip maddr add`` does."""
    wanted = mac.replace(":", "")
    # Columns: index, name, users, global users, address (net/core/dev_addr_lists.c). Only global ones are counted by the ioctl.
    try:
        rows = [line.split() for line in _DEV_MCAST.read_text().splitlines()]
    except OSError as error:
        raise DataplaneError(f"reading {_DEV_MCAST}: {error.strerror}") from error
    return any(row[1] == interface and row[4] == wanted and row[3] != "0" for row in rows)


def add_multicast(interface: str, mac: str) -> None:
    """Let the interface receive frames for a multicast MAC; it stays so when this process ends."""
    _change_multicast(_SIOCADDMULTI, interface, mac)


def remove_multicast(interface: str, mac: str) -> None:
    """Undo `add_multicast`; harmless when it is undone already."""
    if has_multicast(interface, mac):
        _change_multicast(_SIOCDELMULTI, interface, mac)


def _change_multicast(request: int, interface: str, mac: str) -> None:
    argument = _IFREQ_HWADDR.pack(
        interface.encode(), socket.AF_UNSPEC, bytes.fromhex(mac.replace(":", ""))
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, request, argument)
        except OSError as error:
            verb = "add" if request == _SIOCADDMULTI else "del"
            raise DataplaneError(
                f"ip maddr {verb} {mac} dev {interface}: {error.strerror}"
            ) from error


def announce(interface: str, vip: IPv4Address, mac: str) -> None:
    """Send one gratuitous ARP (RFC 5227, 2.3), so that neighbours who knew the VIP under another MAC learn the cluster's.

    The frame's own source stays the interface's MAC: switches must never learn where the cluster's MAC is.
    """
    cluster = bytes.fromhex(mac.replace(":", ""))
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as link:
            link.bind((interface, _ETH_P_ARP))
            own = link.getsockname()[4]
            frame = (
                b"\xff" * 6
                + own
                + struct.pack("!H", _ETH_P_ARP)
                + _ARP_REQUEST
                + cluster
                + vip.packed
                + b"\0" * 6
                + vip.packed
            )
            link.send(frame)
    except OSError as error:
        raise DataplaneError(
            f"gratuitous ARP for {vip} on {interface}: {error.strerror}"
        ) from error
