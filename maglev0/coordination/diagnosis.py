"""Logs the state of the connection to ZooKeeper, and asks each server why there is none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl

from maglev0.config.configuration import ZooKeeperAddress
from maglev0.coordination.session import Session, SessionState
from maglev0.runtime.waiting import in_thread

log = logging.getLogger(__name__)

FIRST_LOOK_S = 1.0  # most sessions connect within this time
MAX_LOOK_S = 30.0
ANSWER_TIMEOUT_S = 1.0
ANSWER_LIMIT = 4096
SILENT = "does not answer"
CLOSES = "closes connections (is its maxClientCnxns reached?)"
SERVES = "serves, but has not granted a session yet"
NO_QUORUM = "runs, but has no quorum"
CERTIFICATE = "shows an invalid certificate:"
NO_TLS = "fails in TLS: wrong version number"
_FAILURES = (
    (TimeoutError, SILENT),
    (socket.gaierror, ": the name does not resolve"),
    (ConnectionRefusedError, "refuses connections"),
    # A server that hangs up early resets the connection, a slower one closes it.
    (ConnectionError, CLOSES),
)
SPEAKS_TLS = "expects TLS: give --zk-ca, or its port without TLS in --zk"
SPEAKS_NO_TLS = "does not speak TLS there: give its secureClientPort in --zk, or leave --zk-ca out"


async def narrate(session: Session, address: ZooKeeperAddress) -> None:
    """Log each connection and disconnection for ever, and once each new reason for no session.

    Raises ZooKeeperError once the servers have refused this node's identity.
    """
    while True:
        await _log_until_connected(session, address)
        log.info("connected to ZooKeeper: session %#x", session.session)
        await session.until(SessionState.SUSPENDED, SessionState.LOST)
        log.warning("connection to ZooKeeper lost: reconnecting")


async def _log_until_connected(session: Session, address: ZooKeeperAddress) -> None:
    pause_s, logged = FIRST_LOOK_S, ""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await session.until(SessionState.CONNECTED)
                return
        reason = await why_no_session(address, session.tls)
        if reason != logged:
            log.warning("no ZooKeeper session, retrying: %s", reason)
        pause_s, logged = min(2 * pause_s, MAX_LOOK_S), reason


async def why_no_session(address: ZooKeeperAddress, tls: ssl.SSLContext | None = None) -> str:
    """One line about every server, as "zk1:2181 refuses connections; zk2:2181 …".

    `tls` is the context of the session, `None` without TLS.
    """
    findings = await asyncio.gather(*(_finding(server, tls) for server in address.hosts.split(",")))
    return "; ".join(findings)


async def _finding(server: str, tls: ssl.SSLContext | None) -> str:
    host, _, number = server.rpartition(":")
    name, port = host.strip("[]"), int(number)
    found = await _asked(name, port, tls)
    # A server that gets TLS where it expects none, or the reverse, is silent, hangs up or
    # complains, depending on its version and on the length of the request.
    if tls is None and found in (SILENT, CLOSES) and await _speaks_tls(name, port):
        found = SPEAKS_TLS
    if (
        tls is not None
        and found != SERVES
        and await _asked(name, port, None) in (SERVES, NO_QUORUM)
    ):
        found = found if found.startswith(CERTIFICATE) else SPEAKS_NO_TLS
    return f"{server}{found}" if found.startswith(":") else f"{server} {found}"


async def _asked(host: str, port: int, tls: ssl.SSLContext | None) -> str:
    """What a server does when it is asked for its state."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return _meaning(await _server_status(host, port, tls))
    except ssl.SSLError as error:
        return _tls_failure(error)
    except OSError as error:
        failure = next((text for kind, text in _FAILURES if isinstance(error, kind)), None)
        return failure or f": {(error.strerror or str(error)).lower()}"


def _tls_failure(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{CERTIFICATE} {error.verify_message.rstrip('.').lower()} (--zk-ca names the trusted "
            "CA)"
        )
    reason = (error.reason or "no reason given").replace("_", " ").lower()
    if "alert" in reason:
        return f"refuses this node's certificate, or demands one: {reason}; see --zk-cert"
    return f"fails in TLS: {reason}"


async def _speaks_tls(host: str, port: int) -> bool:
    """Whether a server answers a TLS handshake; its certificate does not matter."""
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    return await _asked(host, port, anybody) not in (SILENT, CLOSES, NO_TLS)


async def _server_status(host: str, port: int, tls: ssl.SSLContext | None) -> bytes:
    reader, writer = await _connection(host, port, tls)
    try:
        # "srvr" is the only four-letter command that servers allow by default.
        writer.write(b"srvr")
        await writer.drain()
        return await reader.read(ANSWER_LIMIT)
    finally:
        writer.close()


async def _connection(
    host: str, port: int, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    found = await in_thread(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    *others, last = [str(address[0]) for *_, address in found]
    name = None if tls is None else host
    for address in others:
        with contextlib.suppress(OSError):
            return await asyncio.open_connection(address, port, ssl=tls, server_hostname=name)
    return await asyncio.open_connection(last, port, ssl=tls, server_hostname=name)


def _meaning(answer: bytes) -> str:
    if b"not currently serving requests" in answer:
        return NO_QUORUM
    if b"Zookeeper version" in answer or b"not in the whitelist" in answer:
        return SERVES
    if not answer:
        return CLOSES
    return "is not a ZooKeeper server"
