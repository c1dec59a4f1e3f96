"""The measuring client: sends raw requests at a steady rate and holds TCP connections.

Usage:
  client --directory=DIR [options]

Options:
  --directory=DIR   directory of the results and of the socket for orders (see `clients.py`)
  --vip=IP          address to send requests to [default: 198.51.100.1]
  --port=PORT       the service's port [default: 8000]
  --interface=IF    interface on which answers arrive [default: eth0]
  --sources=LIST    numbers of the probers, e.g. 0-63 or 1,5,9 [default: 0-63]
  --rate=N          requests a second from fresh ports, SYN, UDP and ping in turn [default: 600]
  --held-rate=N     UDP and ping requests a second from fixed ports [default: 320]
  --connections=N   TCP connections held [default: 200]
  -h, --help        show this text
"""

from __future__ import annotations

import bisect
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import docopt

from maglev0.lab.testbed import addresses
from maglev0.lab.traffic import held
from maglev0.lab.traffic.raw import FRESH, HELD, Builder, Reply, RequestKind, Segment, vip_filter
from maglev0.lab.traffic.tally import Tally

ORDERS, TALLY, TURNS = "orders", "tally", "turns"
# Each source cycles through these ports for fresh flows; the fixed port lies below.
PORTS = range(20000, 60000)
HELD_PORT = 15000
LINGER_S = 0.5  # answers are counted for so long after the last request
RECENTLY_S = (0.5, 0.15)  # start and end of the recent past, before now
SCHEDULE_S = 0.002  # a request may be so late, which saves wake-ups
SNAP_BYTES = 192
BUFFER_BYTES = 16 << 20
FRAMES_AT_ONCE = 128
ORDER_BYTES = 4096
# The client runs before daemons and servers on busy cores: a late measurement is a wrong one.
NICENESS = -15
# From <linux/if_packet.h> and <asm-generic/socket.h>; Python's socket module lacks them.
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 263, 6, 23
_SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 33, 26
_ETH_P_IP = 0x0800


class Asker:
    """Sends raw requests and records them in the tally."""

    def __init__(
        self, builder: Builder, target: tuple[str, int], sources: list[int], tally: Tally
    ) -> None:
        self._builder = builder
        self._target = target
        self._sources = [(number, addresses.prober_address(number).packed) for number in sources]
        self._tally = tally
        self._socket = socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW
        )
        self._asked = dict.fromkeys((FRESH, HELD), 0)

    def ask(self, kinds: tuple[RequestKind, ...]) -> None:
        """Send the next request of these kinds; sources take turns, each alternates the kinds."""
        turn = self._asked[kinds]
        self._asked[kinds] = turn + 1
        rounds, index = divmod(turn, len(self._sources))
        number, source = self._sources[index]
        kind = kinds[(rounds + index) % len(kinds)]
        port = HELD_PORT if kinds is HELD else PORTS[rounds % len(PORTS)]
        packet = self._builder.request(kind, source, port, len(self._tally))
        self._tally.ask(kind, number, time.monotonic_ns())
        self.send(packet)

    def send(self, packet: bytes) -> None:
        """Send a packet; one that the kernel cannot send without an ARP answer counts as lost."""
        try:
            self._socket.sendto(packet, self._target)
        except OSError:
            return


class Client:
    """Sends requests, holds connections and obeys orders in the current namespace."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        vip, port = IPv4Address(arguments["--vip"]), int(arguments["--port"])
        self._directory = Path(arguments["--directory"])
        self._tally = Tally()
        self._builder = Builder(vip, port)
        self._asker = Asker(
            self._builder, (str(vip), 0), _numbers(arguments["--sources"]), self._tally
        )
        self._epoll = select.epoll()
        self._held = held.Held((vip, port), int(arguments["--connections"]), self._epoll)
        self._wire = _wire(arguments["--interface"], vip)
        self._orders = _orders(self._directory / ORDERS)
        for sock in (self._wire, self._orders):
            self._epoll.register(sock, select.EPOLLIN)
        rates = {FRESH: float(arguments["--rate"]), HELD: float(arguments["--held-rate"])}
        self._periods_ns = {kinds: int(1e9 / rate) for kinds, rate in rates.items() if rate}
        self._stopping = False

    def stop(self, *_: object) -> None:
        """Stop sending requests."""
        self._stopping = True

    def run(self) -> None:
        """Send requests until `stop`, count answers for `LINGER_S` more, and save the results."""
        due_ns = dict.fromkeys(self._periods_ns, time.monotonic_ns())
        while not self._stopping:
            now_ns = time.monotonic_ns()
            for kinds, period_ns in self._periods_ns.items():
                while due_ns[kinds] <= now_ns:
                    self._asker.ask(kinds)
                    due_ns[kinds] += period_ns
            self._held.step(now_ns)
            self._wait(SCHEDULE_S)
        until_s = time.monotonic() + LINGER_S
        while time.monotonic() < until_s:
            self._wait(SCHEDULE_S)
        self._tally.write(self._directory / TALLY)
        held.write(self._held.turns, self._directory / TURNS)

    def _wait(self, timeout_s: float) -> None:
        """Handle the next events; return without any after `timeout_s`."""
        for descriptor, events in self._epoll.poll(timeout_s):
            if descriptor == self._wire.fileno():
                self._hear()
            elif self._held.owns(descriptor):
                self._held.ready(descriptor, events)
            elif descriptor == self._orders.fileno():
                self._obey()

    def _hear(self) -> None:
        for _ in range(FRAMES_AT_ONCE):
            try:
                frame = self._wire.recv(SNAP_BYTES)
            except BlockingIOError:
                return
            heard = self._builder.read(frame)
            if isinstance(heard, Reply):
                self._tally.answer(
                    heard.request, heard.node, time.monotonic_ns(), refusal=heard.refusal
                )
                if heard.reset is not None:
                    self._asker.send(heard.reset)
            elif isinstance(heard, Segment):
                self._held.overhear(heard)

    def _obey(self) -> None:
        order, sender = self._orders.recvfrom(ORDER_BYTES)
        name, *values = json.loads(order)
        answer: Any = self._held.retire(*values) if name == "retire" else self._status()
        self._orders.sendto(json.dumps(answer).encode(), sender)

    def _status(self) -> dict[str, Any]:
        """Counts so far; `dropped` counts the frames the kernel dropped since the last call."""
        _, dropped = struct.unpack("II", self._wire.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = usage.ru_utime + usage.ru_stime
        return {
            "asked": len(self._tally),
            "lost": self._lost(),
            "dropped": dropped,
            "cpu_s": cpu_s,
            "held": self._held.by_node(),
        }

    def _lost(self) -> int:
        """How many recent requests have no answer, among those old enough to have one."""
        now_ns = time.monotonic_ns()
        times_ns = self._tally.sent_ns
        first, last = (bisect.bisect(times_ns, now_ns - int(ago_s * 1e9)) for ago_s in RECENTLY_S)
        return sum(not self._tally.answered_ns[number] for number in range(first, last))


def _numbers(text: str) -> list[int]:
    """'0-3,7' as [0, 1, 2, 3, 7]."""
    spans = (part.partition("-") for part in text.split(","))
    return [
        number for first, _, last in spans for number in range(int(first), int(last or first) + 1)
    ]


def _wire(interface: str, vip: IPv4Address) -> socket.socket:
    """A packet socket (packet(7)) that receives frames from the VIP, filtered in the kernel.

    It ignores the frames that this host sends.
    """
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    program = ctypes.create_string_buffer(vip_filter(vip, SNAP_BYTES))
    # struct sock_fprog: number of 8-byte instructions, pointer to them
    wire.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("HP", len(program) // 8, ctypes.addressof(program)),
    )
    wire.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    wire.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
    wire.bind((interface, _ETH_P_IP))
    return wire


def _orders(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    orders = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    orders.bind(str(path))
    return orders


def main() -> None:
    """Run until SIGTERM."""
    client = Client(docopt.docopt(__doc__))
    signal.signal(signal.SIGTERM, client.stop)
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    gc.disable()  # a collection pauses the client, and there are no cycles to collect
    sys.stdout.write("asking\n")
    sys.stdout.flush()
    client.run()


if __name__ == "__main__":
    main()
