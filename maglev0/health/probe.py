"""One probe of a service: by TCP, HTTP, a program or a file.

A probe is bounded in bytes; the caller bounds its time. TCP and HTTP connect from the same address
that they connect to. Only a host that has an address can connect from it, so the answer never comes
from another node, even while this host does not have the VIP. (Binding to the device lo does not
work: the kernel then finds no route to an address on another device, nor to a container behind a
DNAT rule.)
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import re
import socket
import ssl
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from typing import Any

from maglev0.config.health_checks import CheckKind, HealthCheck
from maglev0.runtime import program
from maglev0.runtime.waiting import in_thread

MAX_HEAD_BYTES = 16384  # the limit of h11, Apache and others for an HTTP header
_MAX_HEAD_LINES = 256
_MAX_INTERIM = 8  # answers of status 1xx before the one that counts
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: |\r?\n)")
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h; in the socket module from Python 3.12 on
_DEFAULT_PORTS = {False: 80, True: 443}

Keep = Callable[["asyncio.Future[Any]"], None]


class DownError(Exception):
    """The service is not up; the text says why."""


async def look(check: HealthCheck, vip: IPv4Address, keep: Keep) -> str | None:
    """Probe once: returns `None` if the service is up, else the reason.

    The caller may cancel it at any time. `keep` gets the future of a thread or process that may
    outlive the probe.
    """
    try:
        if check.kind is CheckKind.TCP:
            (await _connected(check, vip)).close()
        elif check.kind is CheckKind.HTTP:
            await _http(check, vip)
        elif check.kind is CheckKind.EXEC:
            await _exec(check, vip, keep)
        else:
            await _file(check, keep)
    except DownError as error:
        return str(error)
    except ssl.SSLError as error:
        return f"no TLS: {(error.reason or 'handshake failed').replace('_', ' ').lower()}"
    except OSError as error:
        return _words(error)
    except RuntimeError as error:  # threading cannot start a thread
        return str(error)
    return None


def _words(error: OSError) -> str:
    # Not the text of asyncio, which names the address too.
    return "connection lost" if error.errno is None else os.strerror(error.errno).lower()


async def _connected(check: HealthCheck, vip: IPv4Address) -> socket.socket:
    address = check.address or vip
    connection = socket.socket(
        socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM
    )
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        _bind(connection, str(address))
        await asyncio.get_running_loop().sock_connect(connection, (str(address), check.port))
        _refuse_itself(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _bind(connection: socket.socket, address: str) -> None:
    try:
        connection.bind((address, 0))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise DownError(f"{address} is not an address of this host") from error
        raise


def _refuse_itself(connection: socket.socket) -> None:
    """Refuse a connection to itself.

    Without a listener the kernel may choose the same port to connect from, and TCP then connects
    to itself (RFC 9293, 3.5).
    """
    if connection.getsockname() == connection.getpeername():
        raise DownError("connection refused")


async def _http(check: HealthCheck, vip: IPv4Address) -> None:
    connection = await _connected(check, vip)
    try:
        reader, writer = await asyncio.open_connection(
            sock=connection,
            limit=MAX_HEAD_BYTES,
            ssl=_tls() if check.tls else None,
            server_hostname=_server_name(check) if check.tls else None,
        )
    except BaseException:
        connection.close()
        raise
    try:
        writer.write(_request(check, vip))
        status = await _status(reader)
    finally:
        writer.transport.abort()  # the answer may be long, or endless
    if not 200 <= status < 400:
        raise DownError(f"status {status}")


@functools.cache
def _tls() -> ssl.SSLContext:
    """A TLS context that accepts every certificate.

    Nothing is between this host and itself, and the certificate has another name than the VIP.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _server_name(check: HealthCheck) -> str:
    """The server name for TLS; empty for an address, which is no name (RFC 6066, 3)."""
    name = re.sub(r":[0-9]*\Z", "", check.host)
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return name.rstrip(".")
    return ""


def _request(check: HealthCheck, vip: IPv4Address) -> bytes:
    own = str(vip) if check.port == _DEFAULT_PORTS[check.tls] else f"{vip}:{check.port}"
    lines = (
        f"GET {check.path} HTTP/1.1",
        f"Host: {check.host or own}",
        "User-Agent: maglev0",
        "Accept: */*",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(lines).encode("ascii")


async def _status(reader: asyncio.StreamReader) -> int:
    for _interim in range(_MAX_INTERIM):
        found = _STATUS_LINE.match(await _head(reader))
        if found is None:
            raise DownError("no HTTP answer")
        if (status := int(found[1])) >= 200:
            return status
    raise DownError("no end of interim answers")


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Read the status line and header of an answer, up to the empty line that ends them."""
    head = b""
    try:
        for _line in range(_MAX_HEAD_LINES):
            line = await reader.readuntil(b"\n")
            if line in (b"\n", b"\r\n"):
                return head
            head += line
            if len(head) > MAX_HEAD_BYTES:
                break
    except asyncio.IncompleteReadError as error:
        raise DownError("connection closed before an answer") from error
    except asyncio.LimitOverrunError as error:
        raise DownError(
            f"a line of more than {MAX_HEAD_BYTES} bytes in the answer's header"
        ) from error
    raise DownError(f"more than {MAX_HEAD_BYTES} bytes or {_MAX_HEAD_LINES} lines of header")


async def _exec(check: HealthCheck, vip: IPv4Address, keep: Keep) -> None:
    running = program.start(check.arguments, {"MAGLEV0_VIP": str(vip)})
    keep(running.ended)
    try:
        status = await asyncio.shield(running.ended)
    finally:
        running.kill()
    if running.flooded:
        raise DownError(f"it printed more than {program.MAX_OUTPUT_BYTES} bytes")
    if status:
        output = running.last_line
        raise DownError(program.fate(status) + (f": {output}" if output else ""))


async def _file(check: HealthCheck, keep: Keep) -> None:
    looking = asyncio.ensure_future(in_thread(functools.partial(_missing, check.path)))
    keep(looking)
    if (reason := await asyncio.shield(looking)) is not None:
        raise DownError(reason)


def _missing(path: str) -> str | None:
    """Why a file is missing, or `None`. Raises nothing: after the timeout no caller is left."""
    try:
        os.stat(path)  # noqa: PTH116  no Path for one system call
    except OSError as error:
        return _words(error)
    return None
