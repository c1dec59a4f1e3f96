"""Connections that are older than connection tracking on their host.

Once entered, rules that let only established ones through let them go on.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from maglev0.core.packet_hash import PacketFields
from maglev0.core.service import HashMode
from maglev0.dataplane.conntrack import connections
from maglev0.lab.testbed import namespace, network
from maglev0.lab.testbed.network import TRAFFIC, Socket
from maglev0.protocol.ports.readings import Connections
from tests.bench.conntrack import VIP, hashing
from tests.kernel.conftest import Host
from tests.support.one_host import ADDRESS, INTERFACE
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.kernel

CLIENT = IPv4Address("198.18.0.9")
PORT = 80
BY_SOURCE = hashing(HashMode.SOURCE_IP)
BUCKETS = frozenset({BY_SOURCE.bucket(PacketFields(CLIENT, 6))})
TRACK = (
    "table ip track { chain track { type filter hook prerouting priority -150; ct state new; }; }"
)
# Behind connection tracking, in both directions, whatever is not established is dropped.
GATE = f"""
table ip gate {{
    chain from_client {{ type filter hook prerouting priority -150;
        ip daddr {VIP} ct state != established drop; }}
    chain to_client {{ type filter hook output priority 0;
        ip saddr {VIP} ct state != established drop; }}
}}"""
PASSED = (
    f"table ip passed {{ chain passed {{ type filter hook prerouting "
    f"priority -149; ip daddr {VIP} counter; }}; }}"
)
# Before connection tracking hears of it, the host's side is silenced.
HOST_SILENT = (
    f"table ip silent {{ chain silent {{ type filter hook output priority "
    f"-300; ip saddr {VIP} drop; }}; }}"
)
CLIENT_SILENT = (
    f"table ip silent {{ chain silent {{ type filter hook output priority "
    f"-300; ip daddr {VIP} drop; }}; }}"
)
CLIENT_WITHOUT_ACK = (
    f"table ip silent {{ chain silent {{ type filter hook output priority "
    f"-300; ip daddr {VIP} tcp flags & (syn | ack) == ack drop; }}; }}"
)
# Lost on the way in: a packet that its own host throws away is no loss to TCP, which hears of it
# and waits.
LOSSY = (
    "table ip lossy { chain lossy { type filter hook prerouting priority "
    "-300; meta l4proto tcp numgen inc mod 7 == 0 drop; }; }"
)
UNSILENT = "delete table ip silent"
SILENCE_S = 0.5  # in which anything that is sent would have arrived
BULK = 2_000_000
MANY = 300
POLL_S = 0.005
FIN_WAIT2 = 5  # TCP_FIN_WAIT2, the first byte of struct tcp_info
TCPI_TOTAL_RETRANS = 100
TCPI_OPTIONS, TIMESTAMPS_AND_SACK = (
    5,
    1 | 2,
)  # where struct tcp_info tells what was agreed on, and TCPI_OPT_…


@dataclass
class Pair:
    """The host with the VIP, which the test runs in, and a client beside it."""

    host: Host
    client: str
    sockets: ExitStack = field(default_factory=ExitStack)

    def rules(self, text: str) -> None:
        self.host.run("nft", text)

    def client_rules(self, text: str) -> None:
        with namespace.inside(self.client):
            subprocess.run(["nft", text], check=True)

    def listen(self, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        dual = family is socket.AF_INET6
        listener = socket.create_server(
            ("::" if dual else str(VIP), PORT), family=family, dualstack_ipv6=dual, backlog=MANY
        )
        listener.settimeout(PATIENCE_S)
        return self.sockets.enter_context(listener)

    def connect(self, to: IPv4Address = VIP, port: int = PORT) -> socket.socket:
        with namespace.inside(self.client):
            connection = socket.create_connection((str(to), port), timeout=PATIENCE_S)
        return self.sockets.enter_context(connection)

    def accept(self, listener: socket.socket) -> socket.socket:
        connection = self.sockets.enter_context(listener.accept()[0])
        connection.settimeout(PATIENCE_S)
        return connection

    def connected(
        self, family: socket.AddressFamily = socket.AF_INET
    ) -> tuple[socket.socket, socket.socket]:
        """The client's end of a connection, and the host's."""
        listener = self.listen(family)
        near = self.connect()
        return near, self.accept(listener)


@pytest.fixture
def pair(host: Host) -> Iterator[Pair]:
    host.run("ip", "address", "add", f"{VIP}/32", "dev", INTERFACE)
    name = f"{host.name}-client"
    network.make_namespace(name)
    host.network.plug("client", TRAFFIC, Socket(name, INTERFACE, CLIENT))
    network.add_route(name, IPv4Network(VIP), INTERFACE)
    made = Pair(host, name)
    with made.sockets:
        yield made


def entered() -> frozenset[int]:
    return asyncio.run(connections.enter_sockets(VIP, BY_SOURCE))


def held() -> Connections:
    return asyncio.run(connections.held(VIP, BY_SOURCE))


def listed() -> list[str]:
    """The kernel's own listing of its TCP entries."""
    return [
        line
        for line in Path("/proc/thread-self/net/nf_conntrack").read_text().splitlines()
        if " tcp " in line
    ]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what the kernel does soon by itself; an acknowledgement may be delayed."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(POLL_S)


def assert_heard(sender: socket.socket, receiver: socket.socket, what: bytes = b"hello") -> None:
    sender.sendall(what)
    assert receiver.recv(100) == what


def assert_silence(receiver: socket.socket) -> None:
    assert not select.select([receiver], [], [], SILENCE_S)[0]


@pytest.mark.parametrize("first", ["client", "host"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_connection_goes_on_behind_the_gate_whoever_speaks_first(
    pair: Pair, family: socket.AddressFamily, first: str
) -> None:
    near, far = pair.connected(family)
    assert_heard(near, far)
    assert entered() == BUCKETS
    pair.rules(GATE)
    assert held() == Connections(BUCKETS, 1)
    one, other = (near, far) if first == "client" else (far, near)
    for _turn in range(3):
        assert_heard(one, other)
        one, other = other, one


def test_without_being_entered_it_does_not(pair: Pair) -> None:
    near, far = pair.connected()
    pair.rules(GATE)
    near.sendall(b"hello")
    assert_silence(far)


def test_it_may_be_silent_for_as_long_as_the_kernel_lets_any_connection(pair: Pair) -> None:
    pair.connected()
    entered()
    timeout_s = int(
        Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established").read_text()
    )
    (line,) = listed()
    assert timeout_s - 10 < int(line.split()[4]) <= timeout_s
    assert "ESTABLISHED" in line
    assert "[ASSURED]" in line


def test_much_data_under_loss_passes_with_sack_and_timestamps(pair: Pair) -> None:
    near, far = pair.connected()
    assert_heard(near, far)
    entered()
    pair.rules(LOSSY)
    pair.client_rules(LOSSY)
    pair.rules(GATE)
    for sender, receiver in ((near, far), (far, near)):
        sending = threading.Thread(target=sender.sendall, args=(bytes(BULK),))
        sending.start()
        received = 0
        while received < BULK:
            received += len(receiver.recv(1 << 16))
        sending.join()
        assert (
            sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[TCPI_OPTIONS]
            & TIMESTAMPS_AND_SACK
            == TIMESTAMPS_AND_SACK
        )
        assert (
            struct.unpack_from(
                "=I",
                sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104),
                TCPI_TOTAL_RETRANS,
            )[0]
            > 0
        )


def test_a_half_open_connection_is_completed_behind_the_gate(pair: Pair) -> None:
    listener = pair.listen()
    pair.client_rules(CLIENT_WITHOUT_ACK)
    near = pair.connect()
    assert entered() == BUCKETS
    (line,) = listed()
    assert "SYN_RECV" in line
    pair.rules(GATE)
    pair.client_rules(UNSILENT)
    near.sendall(b"hello")
    far = pair.accept(listener)
    assert far.recv(100) == b"hello"
    assert_heard(far, near)


@pytest.mark.parametrize("closing", ["client", "host"])
def test_what_one_side_has_closed_the_other_may_go_on_with(pair: Pair, closing: str) -> None:
    near, far = pair.connected()
    closed, other = (near, far) if closing == "client" else (far, near)
    closed.shutdown(socket.SHUT_WR)
    assert other.recv(1) == b""
    until(lambda: closed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == bytes((FIN_WAIT2,)))
    assert entered() == BUCKETS
    (line,) = listed()
    assert "CLOSE_WAIT" in line
    pair.rules(GATE)
    for _turn in range(3):
        assert_heard(other, closed)
    other.close()
    assert closed.recv(1) == b""


def test_what_is_not_ours_is_not_entered(pair: Pair) -> None:
    with socket.create_server((str(ADDRESS), PORT)) as listener:
        pair.connect(ADDRESS)
        pair.accept(listener)
        assert entered() == frozenset()
        assert listed() == []


def test_entries_that_there_are_stay_as_they_are(pair: Pair) -> None:
    pair.rules(TRACK)
    near, far = pair.connected()
    assert_heard(near, far)
    near.shutdown(socket.SHUT_WR)
    assert far.recv(1) == b""
    until(lambda: "CLOSE_WAIT" in listed()[0])

    def without_time() -> list[list[str]]:
        return [
            [word for number, word in enumerate(line.split()) if number != 4] for line in listed()
        ]

    before, seconds = without_time(), [int(line.split()[4]) for line in listed()]
    assert entered() == BUCKETS
    assert without_time() == before
    assert [int(line.split()[4]) for line in listed()] <= seconds


def test_a_connection_of_which_only_the_client_was_heard_is_known_for_one(pair: Pair) -> None:
    near, far = pair.connected()
    pair.rules(HOST_SILENT)
    pair.rules(TRACK)
    assert_heard(near, far)
    (line,) = listed()
    assert "[UNREPLIED]" in line
    assert entered() == BUCKETS
    pair.rules(GATE)
    # The client, which has no acknowledgement, sends again; nothing of the host's has been heard
    # when that passes.
    pair.rules(PASSED)
    until(lambda: "packets 0 " not in pair.host.run("nft", "list", "table", "ip", "passed"))
    pair.rules(UNSILENT)
    assert_heard(far, near)
    assert_heard(near, far)


def test_a_connection_of_which_only_the_host_was_heard_is_known_for_one_and_held(
    pair: Pair,
) -> None:
    near, far = pair.connected()
    pair.client_rules(CLIENT_SILENT)
    pair.rules(TRACK)
    assert_heard(far, near)
    (line,) = listed()
    assert line.index(f"src={VIP}") < line.index(f"src={CLIENT}")
    assert "[UNREPLIED]" in line
    assert entered() == BUCKETS
    (line,) = listed()
    assert "[UNREPLIED]" not in line
    assert held() == Connections(BUCKETS, 1)
    pair.rules(GATE)
    pair.client_rules(UNSILENT)
    assert_heard(near, far)


def test_many_are_entered_and_a_second_time_does_nothing(pair: Pair) -> None:
    listener = pair.listen()
    near = [pair.connect() for _ in range(MANY)]
    far = {other.getpeername()[1]: other for other in (pair.accept(listener) for _ in range(MANY))}
    assert entered() == entered() == BUCKETS
    pair.rules(GATE)
    assert held() == Connections(BUCKETS, MANY)
    for connection in near:
        assert_heard(connection, far[connection.getsockname()[1]])
