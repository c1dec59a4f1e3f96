"""A client on the host's network whose addresses no kernel answers for.

What it sends is made by hand, and what comes back is read off the wire.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashFamily, Service
from maglev0.lab.testbed import addresses, claim, namespace, network
from maglev0.lab.testbed.network import TRAFFIC, Socket
from tests.kernel.conftest import Host
from tests.support.one_host import ADDRESS, INTERFACE

PORT = 8000
MARKER_PORT = 8001
ANSWER_S = 5.0  # how long an answer may take on a machine whose cores are all busy
FIN, SYN, RST, PSH, ACK, ECE, CWR = (1 << bit for bit in (0, 1, 2, 3, 4, 6, 7))
_IP, _TCP = struct.Struct("!BBHHHBBH4s4s"), struct.Struct("!HHIIBBHHH")


@dataclass(frozen=True)
class Segment:
    """What of a TCP segment from the VIP a test looks at."""

    flags: int
    sequence: int
    acknowledged: int
    data: bytes


@dataclass
class Client:
    """One client address and port, and where its conversation with the VIP stands."""

    wire: Wire
    bucket: int
    address: IPv4Address
    port: int
    sequence: int = 1000
    acknowledged: int = 0

    def ask(self, flags: int, data: bytes = b"") -> list[Segment]:
        """Send a segment from where the conversation stands, and return what is answered.

        The conversation goes on by that.
        """
        self.wire.send(self.address, socket.IPPROTO_TCP, self._segment(flags, data))
        answers = [_parse(packet) for packet in self.wire.answers(self.address, socket.IPPROTO_TCP)]
        for answer in answers:
            if not answer.flags & RST:
                self.sequence = max(self.sequence, answer.acknowledged)
                self.acknowledged = answer.sequence + len(answer.data) + bool(answer.flags & SYN)
        return answers

    def connect(self) -> None:
        """The whole handshake."""
        (answer,) = self.ask(SYN)
        assert answer.flags & (SYN | ACK) == SYN | ACK
        assert self.ask(ACK) == []

    def talks(self) -> bool:
        """Whether data sent now is acknowledged."""
        before = self.sequence
        answers = self.ask(PSH | ACK, b"data")
        return any(
            not answer.flags & RST and answer.acknowledged == before + 4 for answer in answers
        )

    def datagram(self) -> bool:
        """Whether a datagram is answered."""
        self.wire.send(
            self.address, socket.IPPROTO_UDP, struct.pack("!HHHH", self.port, PORT, 12, 0) + b"who?"
        )
        return bool(self.wire.answers(self.address, socket.IPPROTO_UDP))

    def ping(self) -> bool:
        """Whether an echo request is answered."""
        bare = struct.pack("!BBHHH", 8, 0, 0, self.port, 1)
        self.wire.send(
            self.address,
            socket.IPPROTO_ICMP,
            bare[:2] + struct.pack("!H", checksum(bare)) + bare[4:],
        )
        return bool(self.wire.answers(self.address, socket.IPPROTO_ICMP))

    def _segment(self, flags: int, data: bytes) -> bytes:
        bare = (
            _TCP.pack(
                self.port,
                PORT,
                self.sequence,
                self.acknowledged if flags & ACK else 0,
                5 << 4,
                flags,
                64_000,
                0,
                0,
            )
            + data
        )
        pseudo = (
            self.address.packed
            + self.wire.service.vip.packed
            + struct.pack("!HH", socket.IPPROTO_TCP, len(bare))
        )
        return bare[:16] + struct.pack("!H", checksum(pseudo + bare)) + bare[18:]


class Wire:
    """The client's side: its sockets, and the services on the host that answer there (in this
    process, so they answer when `answers` is asked).
    """

    def __init__(self, service: Service, client: str) -> None:
        self.service = service
        self._hashing = PacketHash(
            HashFamily.NFTABLES, service.hash_mode, service.hash_seed, service.total_nodes
        )
        self._ports = iter(range(20_000, 60_000))
        self.listener = socket.create_server(("0.0.0.0", PORT), backlog=100)  # noqa: S104  the VIP comes later
        self._datagrams = _udp("0.0.0.0", PORT)  # noqa: S104
        self._datagrams.setsockopt(
            socket.IPPROTO_IP, 8, 1
        )  # IP_PKTINFO: the answer comes from the address that was asked
        self._datagrams.setblocking(False)
        self._marker = _udp(str(ADDRESS), MARKER_PORT)
        self._client = client
        with namespace.inside(client):
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._seen = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
            self._seen.bind((INTERFACE, 0x0800))
            self._seen.settimeout(ANSWER_S)

    def reach(self, mac: str) -> None:
        """Send to that MAC from now on."""
        with namespace.inside(self._client):
            neighbour = (
                "ip",
                "neighbour",
                "replace",
                str(self.service.vip),
                "lladdr",
                mac,
                "dev",
                INTERFACE,
            )
            subprocess.run(neighbour, check=True)

    def close(self) -> None:
        for sock in (self.listener, self._datagrams, self._marker, self._raw, self._seen):
            sock.close()

    def client(self, bucket: int) -> Client:
        """A client that was not there before, with an address in that bucket."""
        address = next(
            a
            for a in addresses.PROBERS.hosts()
            if self._hashing.bucket(PacketFields(a, socket.IPPROTO_TCP)) == bucket
        )
        return Client(self, bucket, address, next(self._ports))

    def send(
        self,
        source: IPv4Address,
        protocol: int,
        payload: bytes,
        destination: IPv4Address | None = None,
    ) -> None:
        to = destination or self.service.vip
        header = _IP.pack(
            0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0, source.packed, to.packed
        )
        self._raw.sendto(header + payload, (str(to), 0))

    def answers(self, client: IPv4Address, protocol: int) -> list[bytes]:
        """What the VIP has answered by the time that a datagram sent now to the host's own address,
        which nobody judges, has come and gone.
        """
        self._answer_datagrams()
        self.send(
            client,
            socket.IPPROTO_UDP,
            struct.pack("!HHHH", MARKER_PORT, MARKER_PORT, 8, 0),
            ADDRESS,
        )
        self._marker.recvfrom(100)
        self._answer_datagrams()
        self._marker.sendto(b"", (str(client), MARKER_PORT))
        found: list[bytes] = []
        deadline_s = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline_s:
            packet = self._seen.recv(2000)
            if packet[16:20] != client.packed:
                continue
            if packet[12:16] == ADDRESS.packed:
                return found
            if packet[12:16] == self.service.vip.packed and packet[9] == protocol:
                found.append(packet)
        raise AssertionError("the marker did not come back")

    def _answer_datagrams(self) -> None:
        while True:
            try:
                data, ancillary, _flags, sender = self._datagrams.recvmsg(
                    100, socket.CMSG_SPACE(12)
                )
            except BlockingIOError:
                return
            self._datagrams.sendmsg(
                [data],
                [(level, kind, bytes(4) + info[4:]) for level, kind, info in ancillary],
                0,
                sender,
            )


@contextmanager
def wired(host: Host, service: Service) -> Iterator[Wire]:
    """Plug a client in beside the host.

    The VIP's cluster MAC is known to it, as after a gratuitous ARP.
    """
    mine = claim.claim()
    client = mine.namespace("client")
    try:
        network.make_namespace(client)
        host.network.plug("client", TRAFFIC, Socket(client, INTERFACE, addresses.CLIENT_ROUTER))
        with namespace.inside(client):
            host.run("ip", "route", "add", f"{service.vip}/32", "dev", INTERFACE)
            host.run("ip", "route", "add", "blackhole", str(addresses.PROBERS))
        host.run(
            "ip",
            "route",
            "add",
            str(addresses.PROBERS),
            "via",
            str(addresses.CLIENT_ROUTER),
            "dev",
            INTERFACE,
        )
        with closing(Wire(service, client)) as wire:
            wire.reach(service.cluster_mac)
            yield wire
    finally:
        claim.remove(mine.name)
        mine.release()


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _parse(packet: bytes) -> Segment:
    segment = packet[4 * (packet[0] & 0xF) : struct.unpack_from("!H", packet, 2)[0]]
    _source, _to, sequence, acknowledged, offset, flags, _window, _sum, _urgent = _TCP.unpack_from(
        segment
    )
    return Segment(flags, sequence, acknowledged, segment[4 * (offset >> 4) :])


def _udp(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(ANSWER_S)
    sock.bind((address, port))
    return sock
