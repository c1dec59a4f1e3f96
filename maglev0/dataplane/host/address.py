"""The VIP's address on this host.

A daemon marks the address that it adds, so that a later daemon can tell it from an operator's:
by the label "<interface>:maglev0", or, where the interface's name leaves no room for that, by a
note in `notes`.
"""

from __future__ import annotations

import logging
import socket
from ipaddress import IPv4Address
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from maglev0.dataplane.host import notes
from maglev0.dataplane.netlink.route import asking
from maglev0.errors import DataplaneError

log = logging.getLogger(__name__)

_MARK = "maglev0"
_LOOPBACK = 1  # the index of lo in every network namespace
_LABEL_MAX = 15  # IFNAMSIZ less the final zero


async def is_held(vip: IPv4Address) -> bool:
    """Whether any interface of this host holds the VIP."""
    async with asking() as netlink:
        return bool(await _holders(netlink, vip))


async def is_ours(vip: IPv4Address) -> bool:
    """Whether `place`, in this process or an earlier one, put the VIP on this host."""
    async with asking() as netlink:
        return any(_is_marked(address, vip) for address in await _holders(netlink, vip))


async def place(interface: str, index: int, vip: IPv4Address) -> bool:
    """Add the VIP to this interface unless this interface or the loopback holds it.

    Returns whether it was added. An address of ours on another interface is removed from there.
    DataplaneError when another interface holds the VIP and a daemon did not put it there: no rule
    would judge the packets that arrive there.
    """
    async with asking() as netlink:
        found = {int(address["index"]): address for address in await _holders(netlink, vip)}
        for elsewhere, address in found.items():
            if elsewhere in (index, _LOOPBACK):
                continue
            if not _is_marked(address, vip):
                raise DataplaneError(
                    f"another interface than {interface} holds {vip}: "
                    "remove the address there, or name that interface by --interface"
                )
            await _change(netlink, "del", elsewhere, vip)
        if found.keys() & {index, _LOOPBACK}:
            return False
        label = _label(interface)
        if label is None:
            notes.write(vip, index)
            await _change(netlink, "add", index, vip)
        else:
            await _change(netlink, "add", index, vip, label=label)
        return True


async def warn_if_found(vip: IPv4Address) -> None:
    """Warn, at the start, what an address that a daemon did not add means when maglev0 ends."""
    if await is_held(vip) and not await is_ours(vip):
        log.warning(
            "the address %s was on this host before maglev0 and stays when maglev0 ends: "
            "this host then answers in every bucket",
            vip,
        )


async def remove_ours(vip: IPv4Address) -> None:
    """Remove the VIP where `place` put it; an address that a daemon did not add stays."""
    async with asking() as netlink:
        for address in await _holders(netlink, vip):
            if _is_marked(address, vip):
                await _change(netlink, "del", int(address["index"]), vip)
    notes.remove(vip)


async def _holders(netlink: AsyncIPRoute, vip: IPv4Address) -> list[Any]:
    # Older kernels list every address whatever filter they get, so the comparison is made here.
    addresses = [address async for address in await netlink.get_addr(family=socket.AF_INET)]
    return [address for address in addresses if address.get_attr("IFA_LOCAL") == str(vip)]


async def _change(
    netlink: AsyncIPRoute, verb: str, index: int, vip: IPv4Address, **more: str
) -> None:
    try:
        await netlink.addr(verb, index=index, address=str(vip), prefixlen=32, **more)
    except NetlinkError as error:
        raise DataplaneError(f"ip address {verb} {vip}/32: {error.args[1]}") from error


def _label(interface: str) -> str | None:
    """Return the label for an address of ours; None where the name leaves no room for a mark.

    ifconfig takes what stands before the colon for the device, so the name must be complete.
    """
    label = f"{interface}:{_MARK}"[:_LABEL_MAX]
    return label if len(label) > len(interface) + 1 else None


def _is_marked(address: Any, vip: IPv4Address) -> bool:
    # Without a label of its own, an address has the interface's name for one.
    name, _, mark = str(address.get_attr("IFA_LABEL") or "").partition(":")
    if _label(name) is None:
        return notes.read(vip) == int(address["index"])
    return bool(mark) and _MARK.startswith(mark)
