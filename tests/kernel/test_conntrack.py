"""What connection tracking holds, read from this kernel."""

from __future__ import annotations

import asyncio
import math
import socket
import sys
import threading
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashFamily, HashMode
from maglev0.dataplane.conntrack import connections
from maglev0.dataplane.conntrack.message import Connection, ConntrackEntry, TcpState
from maglev0.lab.testbed import namespace, network
from maglev0.lab.testbed.network import TRAFFIC, Socket
from maglev0.protocol.ports.readings import Connections
from tests.bench.conntrack import (
    ENTRIES,
    LOADS,
    OTHER,
    VIP,
    Load,
    connection,
    enter,
    fill,
    hashing,
    measured,
)
from tests.kernel.conftest import Host
from tests.support.one_host import INTERFACE

pytestmark = pytest.mark.kernel

STEP_PART = 1 / 40  # of the processor time of a reading: the longest that the loop may stand still
CLIENT = IPv4Address("198.18.0.9")
TCP = 6
TRACK = (
    "table ip track { chain track { type filter hook prerouting priority -150; ct state new; }; }"
)
ALIVE = {
    TcpState.SYN_RECV,
    TcpState.ESTABLISHED,
    TcpState.FIN_WAIT,
    TcpState.CLOSE_WAIT,
    TcpState.LAST_ACK,
    TcpState.SYN_SENT2,
}
BY_SOURCE = hashing(HashMode.SOURCE_IP)
ECHO_REQUEST = bytes((8, 0, 0xF7, 0xFF, 0, 0, 0, 0))
NOTHING = Connections(frozenset(), 0)
MANY = 20_000
PASSES = 5


def held(by: PacketHash = BY_SOURCE) -> Connections:
    return asyncio.run(connections.held(VIP, by))


def buckets(count: int, sources: int, by: PacketHash = BY_SOURCE) -> frozenset[int]:
    return frozenset(bucket(connection(number, sources), by) for number in range(count))


def bucket(of: Connection, by: PacketHash = BY_SOURCE) -> int:
    return by.bucket(
        PacketFields(
            IPv4Address(of[:4]), TCP, int.from_bytes(of[4:6], "big"), int.from_bytes(of[6:], "big")
        )
    )


def client_of(host: Host) -> str:
    """A machine beside the host, from which the VIP is reached; the VIP is put on the host."""
    host.run("ip", "address", "add", f"{VIP}/32", "dev", INTERFACE)
    name = f"{host.name}-client"
    network.make_namespace(name)
    host.network.plug("client", TRAFFIC, Socket(name, INTERFACE, CLIENT))
    network.add_route(name, IPv4Network(VIP), INTERFACE)
    return name


@pytest.mark.usefixtures("host")
def test_there_is_nothing_before_there_is_anything() -> None:
    assert held() == NOTHING


@pytest.mark.parametrize("mode", HashMode)
@pytest.mark.parametrize("family", HashFamily)
def test_a_connection_is_in_the_bucket_of_its_packets_until_conntrack_forgets_it(
    host: Host, family: HashFamily, mode: HashMode
) -> None:
    client = client_of(host)
    host.run("nft", TRACK)
    by = PacketHash(family, mode, 7, 65_537)
    with socket.create_server((str(VIP), 80)) as listener:
        with namespace.inside(client):
            near = socket.create_connection((str(VIP), 80), timeout=5)
        far = listener.accept()[0]
        port = near.getsockname()[1]
        expected = frozenset({by.bucket(PacketFields(CLIENT, TCP, port, 80))})
        assert held(by) == Connections(expected, 1)
        near.close()
        assert far.recv(1) == b""
        far.close()
    # The last segment may still be on its way.
    while (flows := held(by)).alive:
        assert flows.buckets == expected
    assert flows == Connections(expected, 0)


def test_other_protocols_and_other_addresses_do_not_count(host: Host) -> None:
    client = client_of(host)
    host.run("nft", TRACK)
    with namespace.inside(client):
        datagrams, pings = (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        )
    with datagrams, pings:
        pings.settimeout(5)
        datagrams.sendto(b"", (str(VIP), 53))
        pings.sendto(ECHO_REQUEST, (str(VIP), 0))
        assert pings.recv(100)
    fill(OTHER, 1, 10)
    protocols = [
        line.split()[2]
        for line in Path("/proc/thread-self/net/nf_conntrack").read_text().splitlines()
    ]
    assert set(protocols) == {"tcp", "udp", "icmp"}
    assert held() == NOTHING


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("state", TcpState)
def test_alive_is_what_may_yet_have_something_to_send(state: TcpState) -> None:
    enter([ConntrackEntry(VIP, connection(0, 1), state, 100)])
    assert held() == Connections(buckets(1, 1), state in ALIVE)


def test_what_is_there_all_the_time_is_found_whatever_comes_and_goes(host: Host) -> None:
    fill(VIP, MANY, MANY)
    stop = threading.Event()

    def churn() -> None:
        with namespace.inside(host.name):
            for number in range(MANY, 50 * MANY):
                if stop.is_set():
                    return
                enter([ConntrackEntry(VIP, connection(number, 50 * MANY), TcpState.CLOSE, 1)])

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for _pass in range(PASSES):
            assert held().buckets >= buckets(MANY, MANY)
    finally:
        stop.set()
        churning.join()


@pytest.mark.parametrize(
    "load", [None, *LOADS], ids=lambda load: "nothing" if load is None else load.title
)
def test_the_loop_turns_while_a_large_table_is_read(load: Load | None) -> None:
    ours = load is not None and load.dest == VIP
    # A part of the whole, so that a slow machine changes nothing. A step that is long by itself is
    # long in every pass; other programs lengthen it in some.
    longest: dict[HashMode, float] = dict.fromkeys(HashMode, math.inf)
    for _pass in range(PASSES):
        for mode, cost in measured(load).items():
            expected = (
                Connections(buckets(ENTRIES, load.sources, hashing(mode)), ENTRIES)
                if load is not None and ours
                else NOTHING
            )
            assert cost.flows == expected
            longest[mode] = min(longest[mode], cost.longest_processor_ms / cost.processor_ms)
        if load is None or max(longest.values()) < STEP_PART:
            return
    pytest.fail(f"the longest step is too large a part of the reading: {longest}")


UNPRIVILEGED = """
import asyncio, sys
from ipaddress import IPv4Address
from maglev0.dataplane.conntrack import connections
from maglev0.errors import DataplaneError
from tests.bench.conntrack import VIP, hashing
from maglev0.core.service import HashMode
try:
    asyncio.run(connections.held(VIP, hashing(HashMode.SOURCE_IP)))
except DataplaneError as error:
    print(error)
"""


def test_without_the_right_one_line_says_so(host: Host) -> None:
    told = host.run("setpriv", "--bounding-set=-net_admin", sys.executable, "-c", UNPRIVILEGED)
    assert told == "reading connection tracking: operation not permitted; run as root\n"
