"""What the tests of the nftables dataplane share.

A service, moves carried out as a daemon does, daemons that get killed, and nft's own listing.
"""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from maglev0.core.service import HashMode, Service
from maglev0.core.transition import Move
from maglev0.dataplane.nftables import ruleset
from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.protocol.ports.gate import Commit
from tests.kernel.conftest import Host
from tests.support.one_host import INTERFACE

SERVICE = Service(
    IPv4Address("198.51.100.1"), INTERFACE, "03:bf:c6:33:64:01", 5, HashMode.SOURCE_IP, 7
)
TABLE = ruleset.table_name(SERVICE.vip)
LEASE_MS = 60_000  # longer than any test that does not watch it end
NOTHING: frozenset[int] = frozenset()


@asynccontextmanager
async def opened(
    service: Service = SERVICE, *, lease_ms: int = LEASE_MS, guard: bool = True
) -> AsyncIterator[Nftables]:
    dataplane = Nftables(service, lease_ms, guard=guard)
    try:
        await dataplane.open()
        yield dataplane
    finally:
        await dataplane.close()


async def hand_over(
    dataplane: Nftables, gains: Iterable[int] = (), losses: Iterable[int] = ()
) -> None:
    """A whole hand-over."""
    await dataplane.stage(Move(frozenset(gains), frozenset(losses)))
    await dataplane.commit(Commit.RELEASE)
    await dataplane.commit(Commit.ACQUIRE)


async def renew(dataplane: Nftables) -> None:
    """A whole renewal."""
    await dataplane.arm()
    await dataplane.promote()


Step = tuple[str, tuple[Any, ...]]
DOOMED = """
import asyncio, os, pickle, signal, sys
from maglev0.dataplane.nftables.dataplane import Nftables

async def main(service, lease_ms, guard, steps):
    dataplane = Nftables(service, lease_ms, guard=guard)
    await dataplane.open()
    for method, arguments in steps:
        if method == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            await getattr(dataplane, method)(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*pickle.load(sys.stdin.buffer)))
"""


def owning(*buckets: int) -> list[Step]:
    """The steps by which these buckets come into force where none were."""
    return [
        ("stage", (Move(frozenset(buckets), NOTHING),)),
        ("commit", (Commit.RELEASE,)),
        ("commit", (Commit.ACQUIRE,)),
    ]


@contextmanager
def doomed(
    steps: list[Step], *, service: Service = SERVICE, lease_ms: int = LEASE_MS, guard: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes these steps ("stop" is SIGSTOP) and is then killed."""
    with subprocess.Popen([sys.executable, "-c", DOOMED], stdin=subprocess.PIPE) as child:
        try:
            assert child.stdin is not None
            child.stdin.write(pickle.dumps((service, lease_ms, guard, steps)))
            child.stdin.close()
            yield child
            assert child.wait() == -signal.SIGKILL
        finally:
            child.kill()


def killed_after(
    steps: list[Step], *, service: Service = SERVICE, lease_ms: int = LEASE_MS, guard: bool = True
) -> None:
    """Let such a process live and die."""
    with doomed(steps, service=service, lease_ms=lease_ms, guard=guard):
        pass


@dataclass(frozen=True)
class Listed:
    """What nft itself lists of our sets and maps.

    Which buckets are in force and admitted, and whether a lease runs.
    """

    owned: frozenset[int]
    admitted: frozenset[int]
    leased: bool


def listed(host: Host) -> Listed:
    objects = json.loads(host.run("nft", "-j", "list", "table", "inet", TABLE))["nftables"]
    held = {
        body["name"]: body.get("elem", [])
        for entry in objects
        for kind, body in entry.items()
        if kind in ("set", "map")
    }
    owned = goto(held[ruleset.OWNED_SLOT])
    lease = goto(held[ruleset.LEASE_SLOT])
    slots = ruleset.OWNED if owned == ruleset.OWNED_BOTH else (owned,)
    in_force = frozenset.intersection(*(frozenset(held[name]) for name in slots if name))
    return Listed(in_force, frozenset(held[ruleset.ADMITTED]), bool(lease and held.get(lease)))


def goto(elements: list[Any]) -> str | None:
    """Where the one element of a verdict map leads."""
    chains = [
        verdict["goto"]["target"] for address, verdict in elements if address == str(SERVICE.vip)
    ]
    return chains[0] if chains else None


def rules(host: Host) -> str:
    """Our table without the elements of its sets, nor who owns it."""
    return host.run("nft", "-t", "list", "table", "inet", TABLE).partition("set")[2]
