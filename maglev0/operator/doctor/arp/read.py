"""Reads the traffic network by ARP: sends the questions of `judge` and counts the answers."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from ipaddress import IPv4Address

from maglev0.dataplane.host.interface import Interface
from maglev0.errors import DataplaneError
from maglev0.operator.doctor.arp import judge as arp
from maglev0.operator.doctor.arp.judge import ArpTally, Peer, Question

MAX_PEERS = 64  # a switch that carries frames to so many carries them to all
LEAST_ROUNDS = 3  # so one lost frame does not look like a switch that loses them
ROUND_S = 0.1  # a few frames per round are no load
ANSWER_S = 0.25  # to wait for answers at most; a kernel answers within a millisecond
MAX_FRAMES = 10_000  # to read per question, because a storm of ARP does not end
_BUFFER_BYTES = 1 << 20  # for the answers of all peers at once
_OUTGOING = 4  # PACKET_OUTGOING, packet(7)
_SOL_PACKET, _ADD_MEMBERSHIP, _MULTICAST = 263, 1, 0
_MEMBERSHIP = struct.Struct("@iHH8s")  # struct packet_mreq


class Wire:
    """A packet socket on the traffic interface; only root may open one."""

    def __init__(
        self, interface: Interface, vip: IPv4Address, cluster_mac: str, peers: Sequence[Peer]
    ) -> None:
        self._interface = interface
        self._vip = vip
        self._cluster_mac = cluster_mac
        self.peers = tuple(peers[:MAX_PEERS])  # the members that it asks
        self._tally = ArpTally()

    def ask(self, seconds: float, *, listen: bool) -> ArpTally:
        """Ask in rounds for `seconds`, blocking; returns the counts.

        `listen` makes the network card accept frames for the cluster MAC meanwhile, which is needed
        where no daemon does. Raises DataplaneError if the kernel refuses.
        """
        try:
            with socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW, socket.htons(arp.ETHER_TYPE)
            ) as link:
                link.bind((self._interface.name, arp.ETHER_TYPE))
                link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
                if listen:
                    self._listen(link)
                self._rounds(link, seconds)
        except PermissionError as error:
            raise DataplaneError(
                "asking by ARP needs CAP_NET_RAW: run maglev0 doctor as root"
            ) from error
        except OSError as error:
            raise DataplaneError(
                f"asking by ARP on {self._interface.name}: {(error.strerror or str(error)).lower()}"
            ) from error
        return self._tally

    def _listen(self, link: socket.socket) -> None:
        index = socket.if_nametoindex(self._interface.name)
        mac = bytes.fromhex(self._cluster_mac.replace(":", ""))
        link.setsockopt(
            _SOL_PACKET, _ADD_MEMBERSHIP, _MEMBERSHIP.pack(index, _MULTICAST, len(mac), mac)
        )

    def _rounds(self, link: socket.socket, seconds: float) -> None:
        ends_s = time.monotonic() + seconds
        # Each round takes a bounded time.
        while self._tally.rounds < LEAST_ROUNDS or time.monotonic() < ends_s:
            due_s = time.monotonic() + ROUND_S
            self._who_has_the_vip(link)
            for kind in Question:
                for peer in self.peers:
                    link.send(
                        arp.question(kind, peer.address, self._interface.mac, self._cluster_mac)
                    )
                self._hear(link, kind, patient=not self._tally.rounds and kind is Question.CONTROL)
            self._tally.rounds += 1
            time.sleep(max(0.0, min(due_s, ends_s) - time.monotonic()))

    def _who_has_the_vip(self, link: socket.socket) -> None:
        own = self._interface.address
        # From this machine's own address if it has one, as a client asks: with some values of
        # arp_ignore the kernel answers a probe from 0.0.0.0 but not a client.
        asker = self._interface.mac, IPv4Address(own) if own else arp.NOBODY
        link.send(arp.request(arp.BROADCAST, self._interface.mac, asker, self._vip))

    def _hear(self, link: socket.socket, kind: Question, *, patient: bool) -> None:
        """Count answers until all peers have answered or the time is up, then empty the buffer.

        So no answer is lost when the process had to wait for a processor. `patient` waits for the
        whole time.
        """
        ends_s, wanted = time.monotonic() + ANSWER_S, self._tally.rounds + 1
        for _frame in range(MAX_FRAMES):
            if not patient and all(
                self._tally.answers[kind, peer.address] >= wanted for peer in self.peers
            ):
                return
            link.settimeout(max(0.0, ends_s - time.monotonic()))
            try:
                frame, address = link.recvfrom(2048)
            except (TimeoutError, BlockingIOError):
                return
            heard = None if address[2] == _OUTGOING else arp.parse_arp(frame)
            if heard is not None:
                self._tally.take(heard, kind, self._vip, self._interface.mac, self._cluster_mac)
