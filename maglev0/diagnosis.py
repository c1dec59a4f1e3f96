"""The story of the connection to ZooKeeper, and why there is none: each server is asked, and what it does is put in words."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from maglev0.config import ZooKeeperAddress
from maglev0.waiting import first_of, in_thread
from maglev0.zookeeper import Session, State

log = logging.getLogger(__name__)

FIRST_LOOK_S = 1.0  # most sessions come, or come back, within that
MAX_LOOK_S = 30.0
ANSWER_TIMEOUT_S = 1.0
ANSWER_LIMIT = 4096
CLOSES = "closes connections (is its maxClientCnxns reached?)"


async def narrate(session: Session, address: ZooKeeperAddress) -> None:
    """Log for ever when the connection comes and goes and, once for each reason, why it does not come."""
    while True:
        await _tell_until_connected(session, address)
        log.info("connected to ZooKeeper, session %#x", session.session)
        await session.until(State.SUSPENDED, State.LOST)
        log.warning("lost the connection to ZooKeeper")


async def _tell_until_connected(session: Session, address: ZooKeeperAddress) -> None:
    pause_s, said = FIRST_LOOK_S, ""
    while True:
        await first_of(session.until(State.CONNECTED), timeout_s=pause_s)
        if session.state is State.CONNECTED:
            return
        reason = await why_no_session(address)
        if reason != said:
            log.warning("no ZooKeeper session, trying again: %s", reason)
        pause_s, said = min(2 * pause_s, MAX_LOOK_S), reason


async def why_no_session(address: ZooKeeperAddress) -> str:
    """One line about every server of the connection string, as "zk1:2181 refuses connections; zk2:2181 …"."""
    findings = await asyncio.gather(*(_finding(server) for server in address.hosts.split(",")))
    return "; ".join(findings)


async def _finding(server: str) -> str:
    host, _, port = server.rpartition(":")
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answer = await _server_status(host.strip("[]"), int(port))
    except TimeoutError:
        return f"{server} does not answer"
    except socket.gaierror:
        return f"{server}: the name does not resolve"
    except ConnectionRefusedError:
        return f"{server} refuses connections"
    except ConnectionError:
        # Whether a hang-up shows as an end or as a reset depends on how fast it was.
        return f"{server} {CLOSES}"
    except OSError as error:
        return f"{server}: {(error.strerror or str(error)).lower()}"
    return f"{server} {_meaning(answer)}"


async def _server_status(host: str, port: int) -> bytes:
    reader, writer = await _connection(host, port)
    try:
        # "srvr" is the one four-letter command that servers allow by default.
        writer.write(b"srvr")
        await writer.drain()
        return await reader.read(ANSWER_LIMIT)
    finally:
        writer.close()


async def _connection(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    found = await in_thread(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    *others, last = [str(address[0]) for *_, address in found]
    for address in others:
        with contextlib.suppress(OSError):
            return await asyncio.open_connection(address, port)
    return await asyncio.open_connection(last, port)


def _meaning(answer: bytes) -> str:
    if b"not currently serving requests" in answer:
        return "runs but has no quorum"
    if b"Zookeeper version" in answer or b"not in the whitelist" in answer:
        return "serves, but gave no session yet"
    if not answer:
        return CLOSES
    return "is no ZooKeeper server"
