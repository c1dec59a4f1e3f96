"""The link of the traffic interface: whether it is up, and which device shares its packets."""

from __future__ import annotations

from typing import Any, NamedTuple

from maglev0.dataplane.netlink.route import asking
from maglev0.errors import DataplaneError

_LINK_UP = 0x1 | 0x10000  # IFF_UP and IFF_LOWER_UP of netdevice(7): switched on, and with a carrier


class LinkDownError(DataplaneError):
    """The traffic interface exists, but no packet can arrive on it."""


class Link(NamedTuple):
    """An interface, and the name of a device that shares its packets, if there is one.

    Such a device is stacked on the interface (a VLAN, say) or contains it (a bridge).
    """

    name: str
    ifindex: int
    up: bool
    sharer: str | None

    def require_up(self) -> None:
        """Raise LinkDownError when the interface is switched off or has no carrier."""
        if not self.up:
            raise LinkDownError(
                f"interface {self.name} is down or without a carrier; "
                "this node serves again when the link is up"
            )


async def find_link(interface: str) -> Link:
    """Find the interface; DataplaneError when it does not exist."""
    async with asking() as netlink:
        links = [link async for link in await netlink.get_links()]
    found = [link for link in links if link.get_attr("IFLA_IFNAME") == interface]
    if not found:
        raise DataplaneError(
            f"interface {interface} is gone; this node serves again when it is back"
        )
    return Link(
        interface,
        int(found[0]["index"]),
        found[0]["flags"] & _LINK_UP == _LINK_UP,
        _sharer(found[0], links),
    )


async def find_link_up(interface: str) -> Link:
    """Find the interface; LinkDownError when no packet can arrive on it."""
    link = await find_link(interface)
    link.require_up()
    return link


def _sharer(link: Any, links: list[Any]) -> str | None:
    master = link.get_attr("IFLA_MASTER")
    for other in links:
        # The other end of a veth names this one in the same attribute. A device of another
        # namespace bears the id of that namespace.
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
