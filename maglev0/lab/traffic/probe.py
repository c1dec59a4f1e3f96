"""The probing client: sends requests to the VIP from many addresses and counts all answers.

Each request uses a fresh port.

Usage:
  probe [options]

Options:
  --vip=IP             address to send requests to [default: 198.51.100.1]
  --port=PORT          the service's port [default: 8000]
  --interface=IF       interface on which answers arrive [default: eth0]
  --requests=N         number of requests; 0: until SIGTERM or SIGINT [default: 2000]
  --clients=N          number of source addresses, which take turns [default: 250]
  --protocols=LIST     tcp, udp, ping; each client uses them in turn [default: tcp,udp]
  --rate=N             requests a second [default: 1000]
  --deadline=SECONDS   how long a request stays open; a later first answer counts as late
                       [default: 0.9]
  --json               print every request as JSON instead of the counts
  -h, --help           show this text
"""

from __future__ import annotations

import asyncio
import errno
import random
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import count
from typing import TYPE_CHECKING

import docopt

from maglev0.errors import MaglevError
from maglev0.lab.testbed import addresses
from maglev0.lab.traffic import frames
from maglev0.lab.traffic.frames import RequestFlow
from maglev0.lab.traffic.report import Exchange, Report
from maglev0.lab.traffic.sniffer import Sniffer

if TYPE_CHECKING:
    from maglev0.lab.traffic.sniffer import Answers

# TCP repeats a SYN after 1 s. With a shorter deadline a request is one packet, and a lost SYN
# counts like a lost datagram.
DEADLINE_S = 0.9
# The time for the exchange after the handshake; a connection that no node serves hangs for longer.
TALK_S = 3.0
# How long after the last request second answers are counted, and first ones on a busy machine.
LINGER_S, PATIENCE_S = 0.3, 2.0
# Each open request holds a descriptor; without answers the default rate and deadline keep 900 open.
OPEN_REQUESTS = 2000
# Ports count up from a random start, so that the requests of one run never share a port, and those
# of two runs rarely do.
FIRST_PORTS = range(10000, 40000)
PORT_TRIES = 1000
ANSWER_BYTES = 200


@dataclass(frozen=True)
class ProbePlan:
    """The requests to send.

    `requests` None means until stopped; `rate_per_s` counts all clients together.
    """

    vip: IPv4Address = addresses.VIP
    port: int = addresses.SERVICE_PORT
    interface: str = "eth0"
    requests: int | None = 2000
    clients: int = 250
    protocols: tuple[str, ...] = ("tcp", "udp")
    rate_per_s: float = 1000.0
    deadline_s: float = DEADLINE_S

    def arguments(self) -> list[str]:
        """The plan as arguments of the command."""
        counts = [
            f"--requests={self.requests or 0}",
            f"--clients={self.clients}",
            f"--rate={self.rate_per_s}",
            f"--deadline={self.deadline_s}",
        ]
        return [
            f"--vip={self.vip}",
            f"--port={self.port}",
            f"--interface={self.interface}",
            *counts,
            f"--protocols={','.join(self.protocols)}",
        ]


class Prober:
    """Carries out one plan in the current namespace."""

    def __init__(self, plan: ProbePlan, sniffer: Sniffer) -> None:
        self._plan = plan
        self._sniffer = sniffer
        self._ports = [random.choice(FIRST_PORTS)] * plan.clients  # noqa: S311  no secret
        self._open = asyncio.Semaphore(OPEN_REQUESTS)

    async def run(self, stop: asyncio.Event) -> Report:
        """Send requests at a steady rate until the plan is done or `stop` is set.

        Returns after all open requests have ended.
        """
        tasks: list[asyncio.Task[tuple[Exchange, Answers]]] = []
        started_s = time.monotonic()
        for number in count() if self._plan.requests is None else range(self._plan.requests):
            if await _set_before(stop, started_s + number / self._plan.rate_per_s):
                break
            await self._open.acquire()
            tasks.append(asyncio.create_task(self._ask(number)))
        finished = [await task for task in tasks]
        await _late_answers([answers for _, answers in finished])
        return Report(tuple(self._counted(exchange, answers) for exchange, answers in finished))

    def _counted(self, exchange: Exchange, answers: Answers) -> Exchange:
        """Add the answers to an exchange.

        Every packet counts, but in TCP each node counts once. A late answer counts too, so that a
        busy machine is not taken for a lost request: no other packet could have caused it.
        """
        counted = (
            tuple(dict.fromkeys(answers.macs))
            if exchange.protocol == "tcp"
            else tuple(answers.macs)
        )
        late = (
            answers.first_s is not None
            and answers.first_s - exchange.sent_s > self._plan.deadline_s
        )
        return exchange._replace(
            answers=counted,
            answered_s=answers.first_s
            if exchange.answered_s is None and late
            else exchange.answered_s,
        )

    async def _ask(self, number: int) -> tuple[Exchange, Answers]:
        client = number % self._plan.clients
        protocol = self._plan.protocols[number // self._plan.clients % len(self._plan.protocols)]
        address = str(addresses.client_address(client))
        with self._socket(protocol, address, client) as sock:
            flow = RequestFlow(protocol, address, self._ports[client])
            answers = self._sniffer.expect(flow)
            sent_s = time.monotonic()
            answered_s = await self._answered(flow, sock, answers)
        self._open.release()
        return Exchange(protocol, address, sent_s, answered_s, ()), answers

    async def _answered(
        self, flow: RequestFlow, sock: socket.socket, answers: Answers
    ) -> float | None:
        """The time at which the answer was complete; None if it was not complete in time."""
        target = (str(self._plan.vip), self._plan.port)
        try:
            async with asyncio.timeout(self._plan.deadline_s):
                if flow.protocol == "tcp":
                    await asyncio.get_running_loop().sock_connect(sock, target)
                else:
                    sock.sendto(
                        frames.echo_request(flow.port) if flow.protocol == "ping" else b"request",
                        target,
                    )
                    await answers.served.wait()
            if flow.protocol == "tcp":
                async with asyncio.timeout(TALK_S):
                    await _talk(sock)
        except OSError:  # a timeout, a reset, or no neighbour answers
            return None
        return time.monotonic()

    def _socket(self, protocol: str, address: str, client: int) -> socket.socket:
        """A socket bound to the client's next free port; for a ping the port is its identifier."""
        kinds = {
            "tcp": (socket.SOCK_STREAM, 0),
            "udp": (socket.SOCK_DGRAM, 0),
            "ping": (socket.SOCK_RAW, socket.IPPROTO_ICMP),
        }
        kind, number = kinds[protocol]
        sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK, number)
        for _ in range(PORT_TRIES):
            self._ports[client] += 1
            try:
                sock.bind((address, self._ports[client]))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return sock
        raise OSError(errno.EADDRINUSE, f"no free port at {address}")


async def _talk(sock: socket.socket) -> None:
    """Send a request and read the whole answer on an established connection."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, b"request\n")
    answer = b""
    while not answer.endswith(b"\n"):
        received = await loop.sock_recv(sock, ANSWER_BYTES)
        if not received:
            raise ConnectionResetError("connection closed before the answer was complete")
        answer += received


async def _late_answers(all_answers: list[Answers]) -> None:
    """Wait for second answers, and longer for missing first answers."""
    await asyncio.sleep(LINGER_S)
    missing = [
        asyncio.ensure_future(answers.served.wait()) for answers in all_answers if not answers.macs
    ]
    if missing:
        _, lost = await asyncio.wait(missing, timeout=PATIENCE_S)
        for task in lost:
            task.cancel()


async def _set_before(event: asyncio.Event, due_s: float) -> bool:
    """Wait until CLOCK_MONOTONIC reads `due_s` or `event` is set; returns whether it is set."""
    remaining_s = due_s - time.monotonic()
    if remaining_s > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), remaining_s)
    return event.is_set()


async def probe(plan: ProbePlan) -> Report:
    """Carry out the plan; SIGTERM and SIGINT end it early with a report of the requests so far."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with Sniffer(plan.interface, plan.vip) as sniffer:
        sys.stdout.write("probing\n")
        sys.stdout.flush()
        return await Prober(plan, sniffer).run(stop)


def _plan(arguments: dict[str, str]) -> ProbePlan:
    return ProbePlan(
        vip=IPv4Address(arguments["--vip"]),
        port=int(arguments["--port"]),
        interface=arguments["--interface"],
        requests=int(arguments["--requests"]) or None,
        clients=int(arguments["--clients"]),
        protocols=tuple(arguments["--protocols"].split(",")),
        rate_per_s=float(arguments["--rate"]),
        deadline_s=float(arguments["--deadline"]),
    )


def main() -> int:
    """Probe and print the result; returns 1 where a request was not answered exactly once."""
    arguments = docopt.docopt(__doc__)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        report = asyncio.run(probe(_plan(arguments)))
    except MaglevError as error:
        sys.stderr.write(f"probe: {error}\n")
        return error.exit_status
    if arguments["--json"]:
        sys.stdout.write(report.to_json() + "\n")
        return 0
    sys.stdout.write(report.summary() + "\n")
    for name, answered in sorted(report.shares().items()):
        sys.stdout.write(f"{name:>12} {answered:>6}\n")
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
