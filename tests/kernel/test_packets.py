"""The whole path on real packets.

Real daemons under a real ZooKeeper, clients that see who answers them.
"""

from __future__ import annotations

import select
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from maglev0.core.service import HashMode
from maglev0.lab.testbed import addresses, namespace
from maglev0.lab.testbed.cluster import SETTLE_TIMEOUT_S, Lab, LabSettings
from maglev0.lab.testbed.network import TRAFFIC, Socket
from maglev0.lab.testbed.node import INTERFACE
from maglev0.lab.testbed.process import Process, python_module, wait_for
from maglev0.lab.traffic.probe import ProbePlan
from maglev0.lab.traffic.report import Report
from tests.kernel.clients import ANSWER_S, client_socket

pytestmark = [pytest.mark.kernel, pytest.mark.zookeeper]

SETTINGS = LabSettings(nodes=3, total_nodes=251, dataplane="nftables", session_timeout_s=2.0)
EVERYTHING = ProbePlan(requests=1500, clients=100, protocols=("tcp", "udp", "ping"))
SECOND_VIP = IPv4Address("198.51.100.2")
LINGER_S = 0.3  # how long a second answer is waited for
VIP = (str(addresses.VIP), addresses.SERVICE_PORT)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    with Lab(SETTINGS) as made:
        made.start()
        yield made


def in_node(cluster: Lab, number: int, *command: str) -> str:
    path = namespace.path_of(cluster.nodes[number].machine.namespace)
    return subprocess.run(
        ["nsenter", f"--net={path}", "--", *command], check=True, capture_output=True, text=True
    ).stdout


def assert_everyone_serves(report: Report, nodes: int = 3) -> None:
    assert report.clean, report.summary()
    assert len(report.shares()) == nodes


@pytest.mark.parametrize(
    ("mode", "total_nodes"),
    [
        (HashMode.SOURCE_IP, 5),
        (HashMode.SOURCE_IP, 65_537),
        (HashMode.SOURCE_IP_PORT, 65_537),
        (HashMode.SOURCE_IP_PORT_DEST_PORT, 65_537),
    ],
)
def test_every_request_is_answered_by_exactly_one_node(mode: HashMode, total_nodes: int) -> None:
    with Lab(
        replace(SETTINGS, total_nodes=total_nodes, more_flags=(f"--hash-mode={mode}",))
    ) as made:
        made.start()
        assert_everyone_serves(made.probe(EVERYTHING))
        assert_datagrams_in_fragments_are_answered_once(made)


def test_a_single_node_number_has_a_single_owner() -> None:
    with Lab(replace(SETTINGS, nodes=1, total_nodes=1)) as made:
        made.start()
        assert_everyone_serves(made.probe(EVERYTHING), nodes=1)


def assert_datagrams_in_fragments_are_answered_once(cluster: Lab) -> None:
    """Only the first fragment has ports: a datagram is reassembled before it is judged."""
    with ExitStack() as stack:
        asking = [
            stack.enter_context(client_socket(cluster, client, socket.SOCK_DGRAM))
            for client in range(60)
        ]
        # One at a time: sixty trains of fragments at once overflow the queues of a small machine.
        for sock in asking:
            sock.sendto(b"x" * 20_000, VIP)
            sock.recv(1000)
        second, _, _ = select.select(asking, [], [], LINGER_S)
    assert second == []


def wait_for_more(daemon: Process, text: str, before: int) -> None:
    """Wait until the daemon has said `text` more than `before` times."""
    wait_for(
        lambda: daemon.output().count(text) > before or None,
        [daemon],
        SETTLE_TIMEOUT_S,
        f"{daemon.name} to say {text!r} again",
    )


def answering(cluster: Lab, client: int) -> str:
    """The node that answers a client's datagrams."""
    with client_socket(cluster, client, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"who", VIP)
        return sock.recv(1000).split()[-1].decode()


def next_sequence(wire: socket.socket) -> bytes:
    """The sequence number that the VIP's side of the one connection on this wire uses next, once it
    has answered with data.
    """
    while True:
        packet = wire.recv(2000)
        if packet[9] != socket.IPPROTO_TCP or packet[12:16] != addresses.VIP.packed:
            continue
        header = 4 * (packet[0] & 0xF)
        total, data = (
            struct.unpack_from("!H", packet, 2)[0],
            header + 4 * (packet[header + 12] >> 4),
        )
        if total > data:
            return struct.pack(
                "!I", (struct.unpack_from("!I", packet, header + 4)[0] + total - data) & 0xFFFFFFFF
            )


def fragmentation_needed(client: str, client_port: int, sequence: bytes, mtu: int) -> bytes:
    """The ICMP error of a router that could not pass on a packet from the VIP to the client (RFC
    792, RFC 1191).
    """
    ports = struct.pack("!HH", addresses.SERVICE_PORT, client_port)
    quoted = (
        struct.pack("!BBHHHBBH", 0x45, 0, 1500, 0, 0x4000, 64, socket.IPPROTO_TCP, 0)
        + addresses.VIP.packed
        + IPv4Address(client).packed
    )
    message = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted + ports + sequence
    padded = message + b"\0" * (len(message) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]


def nodes_with_path_mtu(cluster: Lab, client: str, mtu: int) -> list[str]:
    found = []
    for number, node in cluster.nodes.items():
        if f"mtu {mtu}" in in_node(
            cluster, number, "ip", "route", "get", client, "from", str(addresses.VIP)
        ):
            found.append(node.machine.name)
    return found


@pytest.mark.parametrize("client", range(3))
def test_fragmentation_needed_reaches_the_node_that_holds_the_connection(
    cluster: Lab, client: int
) -> None:
    holder = answering(cluster, client)
    # The router's own address belongs to another node: only connection tracking can tell whose
    # error this is.
    router = next(number for number in range(100, 200) if answering(cluster, number) != holder)
    mtu = 1200 + client
    with namespace.inside(cluster.client):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with wire, client_socket(cluster, client, socket.SOCK_STREAM) as connection:
        wire.settimeout(ANSWER_S)
        wire.bind((INTERFACE, 0x0800))
        connection.connect(VIP)
        connection.sendall(b"hello\n")
        assert connection.recv(1000).split()[-1].decode() == holder
        address, port = connection.getsockname()
        sequence = next_sequence(wire)
        with namespace.inside(cluster.client):
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        with raw:
            raw.bind((str(addresses.client_address(router)), 0))
            raw.sendto(fragmentation_needed(address, port, sequence, mtu), VIP)
        # The exchange that follows on the connection is judged after the error, on the same wire.
        connection.sendall(b"again\n")
        assert connection.recv(1000).split()[-1].decode() == holder
        assert nodes_with_path_mtu(cluster, address, mtu) == [holder]


def test_a_node_talks_to_its_own_vip(cluster: Lab) -> None:
    for number, node in cluster.nodes.items():
        with namespace.inside(node.machine.namespace):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with sock:
            sock.settimeout(ANSWER_S)
            sock.connect(VIP)
            sock.sendall(b"me?\n")
            assert sock.recv(1000).split()[-1].decode() == f"backend-{number}"


def test_arp_never_gives_a_nodes_own_mac_away(cluster: Lab) -> None:
    """Requests as well as replies.

    A node that asks for a client's address from the VIP teaches the client a MAC, too.
    """
    cluster.probe(replace(EVERYTHING, requests=200))
    path = namespace.path_of(cluster.client)
    neighbours = subprocess.run(
        ["nsenter", f"--net={path}", "--", "ip", "neighbour", "show", str(addresses.VIP)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "03:bf:c6:33:64:01" in neighbours


def test_an_interface_beside_it_in_the_same_network_says_nothing_of_the_vip(cluster: Lab) -> None:
    beside = Socket(cluster.nodes[1].machine.namespace, "eth2", IPv4Address("198.18.7.7"))
    cluster.network.plug("beside", TRAFFIC, beside)
    try:
        assert arp_answers(cluster, addresses.VIP) == {bytes.fromhex("03bfc6336401")}
    finally:
        cluster.network.remove("beside")


def arp_answers(cluster: Lab, wanted: IPv4Address) -> set[bytes]:
    """The MAC addresses that anybody gives for an address.

    Every node answers for the VIP, all before one of them can be missed.
    """
    with namespace.inside(cluster.client):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    with wire:
        wire.bind((INTERFACE, 0x0806))
        own = wire.getsockname()[4]
        request = (
            struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
            + own
            + addresses.CLIENT_ROUTER.packed
            + b"\0" * 6
            + wanted.packed
        )
        wire.send(b"\xff" * 6 + own + b"\x08\x06" + request)
        found = []
        while select.select([wire], [], [], LINGER_S)[0]:
            frame = wire.recv(100)
            if frame[20:22] == b"\0\x02" and frame[28:32] == wanted.packed:
                found.append(frame[22:28])
    assert len(found) >= len(cluster.nodes)
    return set(found)


def test_two_vips_live_side_by_side_and_leave_one_by_one(cluster: Lab) -> None:
    daemons = []
    for number, node in cluster.nodes.items():
        command = [
            argument.replace(str(addresses.VIP), str(SECOND_VIP))
            for argument in node.daemon_command
        ]
        daemons.append(
            Process(
                f"second daemon {number}",
                command,
                node.machine.directory / f"second-{number}.log",
                node.machine.namespace,
            )
        )
    try:
        for daemon in daemons:
            daemon.wait_line(r"\[1 2 3\]")
        assert_everyone_serves(cluster.probe(EVERYTHING))
        assert_everyone_serves(second_vip_report(cluster))
        assert [daemon.stop() for daemon in daemons] == [0, 0, 0]
    finally:
        for daemon in daemons:
            daemon.kill()
    assert_everyone_serves(cluster.probe(EVERYTHING))
    for number in cluster.nodes:
        assert str(SECOND_VIP) not in in_node(cluster, number, "nft", "list", "ruleset") + in_node(
            cluster, number, "ip", "address"
        )


def second_vip_report(cluster: Lab) -> Report:
    plan = replace(EVERYTHING, vip=SECOND_VIP)
    probe = Process(
        "probe of the second VIP",
        python_module("maglev0.lab.traffic.probe", *plan.arguments(), "--json"),
        cluster.claim.directory / "second.log",
        cluster.client,
    )
    assert probe.wait(30) == 0, probe.output()
    return Report.from_json(probe.output().splitlines()[-1])


def test_an_address_that_is_taken_away_under_load_is_restored(cluster: Lab) -> None:
    node, line = cluster.nodes[2], "restored the address 198.51.100.1"
    before = node.daemon.output().count(line)
    with cluster.probing(ProbePlan(clients=100, rate_per_s=500)) as probing:
        probing.let_all_ask()
        in_node(cluster, 2, "ip", "address", "del", "198.51.100.1/32", "dev", INTERFACE)
        wait_for_more(node.daemon, line, before)
        probing.let_all_ask()
    assert_everyone_serves(cluster.probe(EVERYTHING))


def test_rules_that_others_flush_under_load_stay(cluster: Lab) -> None:
    """As long as the daemon lives they are its own, on Linux 6.9 and later."""
    with cluster.probing(
        ProbePlan(clients=100, rate_per_s=500, protocols=("tcp", "udp", "ping"))
    ) as probing:
        probing.let_all_ask()
        for _ in range(3):
            in_node(cluster, 2, "nft", "flush", "ruleset")
            probing.let_all_ask()
    assert_everyone_serves(probing.report)


def test_a_link_that_goes_down_takes_its_node_out_until_it_is_up(cluster: Lab) -> None:
    machine = cluster.nodes[3].machine
    alone = {number: cluster.nodes[number].daemon.output().count("[1 2]") for number in (1, 2)}
    joins = cluster.nodes[3].daemon.output().count("joined as")
    with cluster.probing(ProbePlan(clients=100, rate_per_s=500)) as probing:
        probing.let_all_ask()
        cluster.network.pull(machine.traffic_cable)
        for number in (1, 2):
            wait_for_more(cluster.nodes[number].daemon, "[1 2]", alone[number])
        probing.let_all_ask()
        cluster.network.push(machine.traffic_cable)
        wait_for_more(cluster.nodes[3].daemon, "joined as", joins)
        cluster.settle()
    report = cluster.probe(EVERYTHING)
    assert_everyone_serves(report)
    assert "can serve again" in cluster.nodes[3].daemon.output()


def test_a_killed_daemons_leftovers_are_repaired_by_the_next(cluster: Lab) -> None:
    node = cluster.nodes[1]
    before = in_node(cluster, 1, "nft", "-s", "-t", "list", "ruleset")
    node.kill_daemon()
    in_node(cluster, 1, "nft", "flush", "ruleset")
    node.start_daemon()
    cluster.settle()
    assert in_node(cluster, 1, "nft", "-s", "-t", "list", "ruleset") == before
    assert_everyone_serves(cluster.probe(EVERYTHING))


def test_a_daemon_that_leaves_leaves_nothing_behind(cluster: Lab) -> None:
    foreign = (
        "table ip theirs { chain forward { type filter hook forward priority 0; policy drop; }; }"
    )
    in_node(cluster, 2, "nft", foreign)
    theirs = in_node(cluster, 2, "nft", "list", "table", "ip", "theirs")
    assert cluster.nodes[2].stop_daemon() == 0
    try:
        assert in_node(cluster, 2, "nft", "list", "ruleset") == theirs
        assert str(addresses.VIP) not in in_node(cluster, 2, "ip", "address")
        assert "03:bf:c6:33:64:01" not in in_node(
            cluster, 2, "ip", "maddress", "show", "dev", INTERFACE
        )
    finally:
        cluster.nodes[2].start_daemon()
        cluster.settle()
