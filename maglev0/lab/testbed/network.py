"""The lab's two networks: a traffic switch that floods multicast MACs, and a management switch.

Switches and cables are in a separate namespace; the machine's own namespace holds no device of the
lab.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute

from maglev0.lab.errors import LabError
from maglev0.lab.testbed import addresses, namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAFFIC = "traffic"
MANAGEMENT = "management"
# States of a bridge's port, include/uapi/linux/if_bridge.h
PORT_DISABLED, PORT_FORWARDING = 0, 3
_AF_BRIDGE = 7  # linux/socket.h
IFF_UP = 1  # netdevice(7)
CARRIER_TIMEOUT_S, CARRIER_ASK_S = 5.0, 0.005


@dataclass(frozen=True)
class Socket:
    """One end of a cable: an interface in a namespace, with its address on the cable's network."""

    namespace: str
    interface: str
    address: IPv4Address
    mac: str | None = None


class Network:
    """Both switches; `create` builds them, `plug` connects a machine by a named cable."""

    def __init__(self, switch: str) -> None:
        """`switch` is the name of the namespace that will hold them."""
        self._switch = switch

    def create(self) -> None:
        """Create both switches with no machine connected."""
        make_namespace(self._switch)
        with _netlink(self._switch) as netlink:
            for name in (TRAFFIC, MANAGEMENT):
                # Without snooping a bridge floods frames for a multicast MAC, as the VIP needs.
                netlink.link("add", ifname=name, kind="bridge", br_mcast_snooping=0)
                netlink.link("set", ifname=name, state="up")

    def plug(self, cable: str, switch: str, end: Socket) -> None:
        """Connect a machine to one of the two switches by a cable and configure its interface."""
        with _netlink(self._switch) as netlink:
            peer = {"ifname": end.interface, "net_ns_fd": end.namespace} | (
                {} if end.mac is None else {"address": end.mac}
            )
            netlink.link("add", ifname=cable, kind="veth", peer=peer)
            netlink.link(
                "set", ifname=cable, master=netlink.link_lookup(ifname=switch)[0], state="up"
            )
        with _netlink(end.namespace) as netlink:
            index = netlink.link_lookup(ifname=end.interface)[0]
            netlink.addr(
                "add", index=index, address=str(end.address), prefixlen=addresses.PREFIX_LENGTH
            )
            netlink.link("set", index=index, state="up")
        self._await_forwarding(cable)

    def remove(self, cable: str) -> None:
        """Remove the cable and the interface at its far end."""
        with _netlink(self._switch) as netlink:
            netlink.link("del", index=netlink.link_lookup(ifname=cable)[0])

    def pull(self, cable: str) -> None:
        """Disconnect the cable at the switch; the machine's interface loses its carrier."""
        self._set_state(cable, "down")

    def push(self, cable: str) -> None:
        """Connect a pulled cable again; frames pass once this returns."""
        self._set_state(cable, "up")
        self._await_forwarding(cable)

    def is_pulled(self, cable: str) -> bool:
        """Whether the cable is disconnected at the switch."""
        with _netlink(self._switch) as netlink:
            return not netlink.get_links(ifname=cable)[0]["flags"] & IFF_UP

    def mute(self, cable: str) -> None:
        """Block all frames while both ends keep their carrier, as a faulty switch does."""
        self._set_port(cable, PORT_DISABLED)

    def unmute(self, cable: str) -> None:
        """Undo `mute`."""
        self._set_port(cable, PORT_FORWARDING)

    def _set_port(self, cable: str, state: int) -> None:
        with _netlink(self._switch) as netlink:
            index = netlink.link_lookup(ifname=cable)[0]
        with namespace.inside(self._switch):
            plain = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        with plain:
            plain.send(_port_state(index, state))
            # The error number follows the 16-byte header (linux/netlink.h).
            error = -struct.unpack_from("i", plain.recv(4096), 16)[0]
        if error:
            raise LabError(
                f"setting the switch's port {cable} to state {state}: {os.strerror(error)}"
            )

    def _set_state(self, cable: str, state: str) -> None:
        with _netlink(self._switch) as netlink:
            netlink.link("set", index=netlink.link_lookup(ifname=cable)[0], state=state)

    def _await_forwarding(self, cable: str) -> None:
        """Wait until the bridge forwards to the port.

        The kernel's link watch notices the carrier up to 1 s late (net/core/link_watch.c).
        """
        deadline_s = time.monotonic() + CARRIER_TIMEOUT_S
        with _netlink(self._switch) as netlink:
            while netlink.get_links(ifname=cable)[0].get("operstate") != "UP":
                if time.monotonic() > deadline_s:
                    raise LabError(f"plugging {cable} in: no carrier after {CARRIER_TIMEOUT_S} s")
                time.sleep(CARRIER_ASK_S)


def _port_state(index: int, state: int) -> bytes:
    """The RTM_SETLINK message for the state of a bridge's port (rtnetlink(7)).

    pyroute2 0.9 sets the link's state instead.
    """
    # IFLA_PROTINFO, nested: IFLA_BRPORT_STATE
    attributes = struct.pack("HHHHB3x", 12, 12 | 0x8000, 5, 1, state)
    body = struct.pack("BxHiII", _AF_BRIDGE, 0, index, 0, 0) + attributes
    return struct.pack("IHHII", 16 + len(body), 19, 0x5, 1, 0) + body


def make_namespace(name: str) -> None:
    """Create a namespace with its loopback up and IPv6 off, which would only send extra packets."""
    namespace.create(name)
    with namespace.inside(name):
        for scope in ("all", "default"):
            switch = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
            if switch.exists():
                switch.write_text("1")
    with _netlink(name) as netlink:
        netlink.link("set", ifname="lo", state="up")


def add_route(
    in_namespace: str, destination: IPv4Network, interface: str, gateway: IPv4Address | None = None
) -> None:
    """Route `destination` through the interface: by `gateway`, or directly where it is None."""
    with _netlink(in_namespace) as netlink:
        index = netlink.link_lookup(ifname=interface)[0]
        via = {} if gateway is None else {"gateway": str(gateway)}
        netlink.route(
            "add",
            dst=str(destination),
            oif=index,
            scope="link" if gateway is None else "universe",
            **via,
        )


def own_range(in_namespace: str, addresses_owned: IPv4Network) -> None:
    """Make every address of the range local by a single route."""
    with _netlink(in_namespace) as netlink:
        index = netlink.link_lookup(ifname="lo")[0]
        netlink.route(
            "add", dst=str(addresses_owned), oif=index, type="local", table=255, scope="host"
        )


def discard_range(in_namespace: str, addresses_discarded: IPv4Network) -> None:
    """Drop packets to these addresses without an answer; packet sockets still receive them."""
    with _netlink(in_namespace) as netlink:
        netlink.route("add", dst=str(addresses_discarded), type="blackhole")


@contextmanager
def _netlink(in_namespace: str) -> Iterator[Any]:
    # pyroute2's netns argument would fork a child for each socket.
    with namespace.inside(in_namespace):
        netlink = IPRoute()
    with netlink:
        yield netlink
