"""The lab's switches, with real frames."""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from maglev0.lab.testbed import addresses, claim, namespace, network
from maglev0.lab.testbed.network import TRAFFIC, Network, Socket
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maglev0.lab.testbed.claim import Claim

pytestmark = pytest.mark.kernel

ETHERTYPE = 0x88B5  # for experiments (IEEE 802): nothing else sends it
# To a multicast MAC, from machine a: a bridge refuses a sender that is no unicast MAC.
HEADER = (
    bytes.fromhex("01005e336401")
    + bytes.fromhex(addresses.node_mac(1).replace(":", ""))
    + ETHERTYPE.to_bytes(2, "big")
)


@pytest.fixture
def mine() -> Iterator[Claim]:
    taken = claim.claim()
    yield taken
    claim.remove(taken.name)
    taken.release()


@pytest.fixture
def net(mine: Claim) -> Network:
    """A traffic switch with machines a, b and c."""
    made = Network(mine.namespace("switch"))
    made.create()
    for number, name in enumerate("abc", start=1):
        network.make_namespace(mine.namespace(name))
        made.plug(
            name,
            TRAFFIC,
            Socket(
                mine.namespace(name),
                "eth0",
                addresses.node_address(number),
                addresses.node_mac(number),
            ),
        )
    return made


def test_a_frame_to_a_multicast_mac_reaches_every_machine(mine: Claim, net: Network) -> None:
    assert net is not None
    with _wire(mine, "a") as a, _wire(mine, "b") as b, _wire(mine, "c") as c:
        a.send(HEADER + b"to all")
        assert b.recv(100)[14:] == b"to all"
        assert c.recv(100)[14:] == b"to all"


def test_a_pulled_plug_is_a_lost_carrier_until_it_is_back(mine: Claim, net: Network) -> None:
    net.pull("b")
    assert _gets_carrier(mine, "b", wanted=False)
    with _wire(mine, "a") as a, _wire(mine, "b") as b, _wire(mine, "c") as c:
        a.send(HEADER + b"lost")
        assert c.recv(100)[14:] == b"lost"
        net.push("b")
        assert _gets_carrier(mine, "b", wanted=True)
        a.send(HEADER + b"found")
        assert b.recv(100)[14:] == b"found"


def test_a_range_of_addresses_is_owned_at_once(mine: Claim, net: Network) -> None:
    assert net is not None
    network.own_range(mine.namespace("a"), addresses.CLIENTS)
    network.add_route(mine.namespace("b"), addresses.CLIENTS, "eth0", addresses.node_address(1))
    with namespace.inside(mine.namespace("a")):
        servers = [
            socket.create_server((str(addresses.client_address(client)), 9000))
            for client in (0, 999)
        ]
    for server in servers:
        with server, namespace.inside(mine.namespace("b")):
            socket.create_connection(server.getsockname(), timeout=PATIENCE_S).close()


def test_nothing_appears_in_the_machines_own_namespace(net: Network) -> None:
    assert net is not None
    names = {name for _, name in socket.if_nameindex()}
    assert names.isdisjoint({"a", "b", "c", "traffic", "management"})


def test_what_is_opened_inside_stays_there(mine: Claim, net: Network) -> None:
    assert net is not None
    with namespace.inside(mine.namespace("a")):
        inner = socket.create_server((str(addresses.node_address(1)), 9000))
    with inner, pytest.raises(OSError, match="assign"):
        socket.create_server((str(addresses.node_address(1)), 9000))


def test_removing_twice_is_harmless(mine: Claim, net: Network) -> None:
    assert net is not None
    claim.remove(mine.name)
    assert namespace.names(f"{mine.name}-") == []
    claim.remove(mine.name)


def _wire(mine: Claim, machine: str) -> socket.socket:
    with namespace.inside(mine.namespace(machine)):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
    wire.bind(("eth0", ETHERTYPE))
    wire.settimeout(PATIENCE_S)
    return wire


def _gets_carrier(mine: Claim, machine: str, *, wanted: bool) -> bool:
    """Wait until the machine's interface has a carrier, or none."""
    with namespace.inside(mine.namespace(machine)):
        any_socket = socket.socket()
    deadline_s = time.monotonic() + PATIENCE_S
    with any_socket:
        while _runs(any_socket) != wanted and time.monotonic() < deadline_s:
            time.sleep(0.01)
        return _runs(any_socket) == wanted


def _runs(any_socket: socket.socket) -> bool:
    """Whether eth0 has the flag IFF_RUNNING, by SIOCGIFFLAGS (netdevice(7))."""
    answer = fcntl.ioctl(any_socket, 0x8913, struct.pack("16sH14x", b"eth0", 0))
    return bool(struct.unpack_from("H", answer, 16)[0] & 0x40)
