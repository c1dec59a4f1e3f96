"""Reads state, settings and granted session timeouts of each ZooKeeper server.

It opens sessions by the bare handshake and closes them at once, because kazoo connects to any
server and limits the timeouts that it requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from maglev0.config.configuration import ZooKeeperAddress
from maglev0.coordination import diagnosis
from maglev0.operator.doctor.ensemble import judge as ensemble
from maglev0.operator.doctor.ensemble.judge import ServerReading
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import Disconnected, Refused, VersionGuard, ZooKeeper

ANSWER_TIMEOUT_S = 2.0
ANSWER_LIMIT = 1 << 16
WRITES = 7  # enough to see a slow one, and hardly any load
_LENGTH = struct.Struct("!i")
# Protocol version, last zxid seen, timeout in ms, session, password, read-only (zookeeper.jute).
_CONNECT = struct.Struct("!iqiqi16s?")
_CONNECTED = struct.Struct("!ii")  # protocol version, timeout in ms
_CLOSE = struct.Struct("!iii")  # length, xid, type: closeSession is -11
_LONGEST_MS = (1 << 31) - 1


async def ask(
    address: ZooKeeperAddress, tls: ssl.SSLContext | None, asked_s: float
) -> list[ServerReading]:
    """Ask all servers at once, for sessions of `asked_s` seconds; a failure is in `problem`."""
    return list(
        await asyncio.gather(*(_ask(server, tls, asked_s) for server in address.hosts.split(",")))
    )


async def any_serves(address: ZooKeeperAddress, tls: ssl.SSLContext | None) -> bool:
    """Whether any server sends an answer of any kind; returns at once if all refuse."""
    return any(
        await asyncio.gather(*(_answers(server, tls) for server in address.hosts.split(",")))
    )


async def _answers(server: str, tls: ssl.SSLContext | None) -> bool:
    try:
        return bool(await _word(server, tls, b"srvr"))
    except (OSError, EOFError, TimeoutError):
        return False


async def _ask(server: str, tls: ssl.SSLContext | None, asked_s: float) -> ServerReading:
    try:
        status = await _word(server, tls, b"srvr")
        version, mode = ensemble.read_srvr(status)
        if "not currently serving" in status:
            return ServerReading(server, problem=diagnosis.NO_QUORUM)
        granted = [
            await _granted_s(server, tls, timeout_ms)
            for timeout_ms in (int(1000 * asked_s), 1, _LONGEST_MS)
        ]
        conf = ensemble.read_conf(await _word(server, tls, b"conf"))
    except (OSError, EOFError, TimeoutError, struct.error):
        return ServerReading(server, problem=await _problem(server, tls))
    return ServerReading(
        server, "", version, mode, asked_s, granted[0], granted[1], granted[2], conf
    )


async def _problem(server: str, tls: ssl.SSLContext | None) -> str:
    reason = await diagnosis.why_no_session(ZooKeeperAddress(server, ""), tls)
    return reason.removeprefix(server).lstrip(" :")


@asynccontextmanager
async def _connected(
    server: str, tls: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(
            host, int(port), ssl=tls, server_hostname=None if tls is None else host
        )
        try:
            yield reader, writer
        finally:
            writer.close()


async def _word(server: str, tls: ssl.SSLContext | None, word: bytes) -> str:
    async with _connected(server, tls) as (reader, writer):
        writer.write(word)
        await writer.drain()
        return (await reader.read(ANSWER_LIMIT)).decode(errors="replace")


async def _granted_s(server: str, tls: ssl.SSLContext | None, timeout_ms: int) -> float:
    async with _connected(server, tls) as (reader, writer):
        request = _CONNECT.pack(0, 0, timeout_ms, 0, 16, bytes(16), False)
        writer.write(_LENGTH.pack(len(request)) + request)
        length: int = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
        answer = await reader.readexactly(min(length, ANSWER_LIMIT))
        writer.write(_CLOSE.pack(8, 1, -11))
        with contextlib.suppress(OSError):
            await writer.drain()
            await reader.read(ANSWER_LIMIT)  # the answer says that the session is closed
        return float(_CONNECTED.unpack_from(answer)[1]) / 1000


async def writes_s(zookeeper: ZooKeeper, paths: Paths, version: int) -> list[float]:
    """How long some transactions took, in seconds.

    Each only checks a version and changes nothing, but the servers agree on it as on a write.
    """
    took = []
    for _try in range(WRITES):
        started_s = time.monotonic()
        with suppress(Refused, Disconnected):
            await zookeeper.commit([VersionGuard(paths.settings, version)])
            took.append(time.monotonic() - started_s)
    return took
