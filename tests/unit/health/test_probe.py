"""Looks at real servers, programs and files."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Coroutine
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from maglev0.config.health_checks import parse_check
from maglev0.health import probe
from maglev0.lab.testbed import namespace, network
from maglev0.lab.testbed.network import TRAFFIC, Socket
from tests.support.one_host import ADDRESS, one_host
from tests.support.patience import PATIENCE_S
from tests.support.services import (
    LOCAL,
    answering,
    lives,
    repeating,
    script,
    serving,
    silent,
)
from tests.zookeeper.certificates import Authority

VIP, NEIGHBOUR = IPv4Address("198.18.0.100"), IPv4Address("198.18.0.2")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# The port of a container, published by address translation: the service belongs to this host,
# though it is on another device.
PUBLISHED = f"""
table ip published {{
    chain output {{
        type nat hook output priority -100
        ip daddr {ADDRESS} tcp dport 80 dnat to {NEIGHBOUR}:8081
    }}
}}
"""
FLOOD_BYTES = probe.MAX_HEAD_BYTES + 1

# What a server answers, and what is said of it.
ANSWERS = [
    (OK, None),
    (b"HTTP/1.0 204 No Content\n\n", None),
    (b"HTTP/1.1 399\r\n\r\n", None),
    (b"HTTP/1.1 301 Moved\r\nLocation: http://192.0.2.1/\r\n\r\n", None),
    (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, None),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "status 400"),
    (b"HTTP/1.1 503 \r\n\r\n", "status 503"),
    (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 8 + OK, "no end of interim answers"),
    (b"", "connection closed before an answer"),
    (b"HTTP/1.1 200 OK\r\nServer: x\r\n", "connection closed before an answer"),
    (b"HTTP/1.1 999 What\r\n\r\n", "no HTTP answer"),
    (b"HTTP/1.1 2000\r\n\r\n", "no HTTP answer"),
    (b"HTTP/2.0 200 OK\r\n\r\n", "no HTTP answer"),
    (b"\r\n" + OK, "no HTTP answer"),
    (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP answer"),
    (b"\x00\xff\n\n", "no HTTP answer"),
    (
        b"HTTP/1.1 200 " + FLOOD_BYTES * b"x" + b"\r\n\r\n",
        "a line of more than 16384 bytes in the answer's header",
    ),
    (
        b"HTTP/1.1 200 OK\r\n" + 17 * (b"a:" + 1000 * b"x" + b"\r\n") + b"\r\n",
        "more than 16384 bytes or 256 lines of header",
    ),
    (
        b"HTTP/1.1 200 OK\r\n" + 256 * b"a:\r\n" + b"\r\n",
        "more than 16384 bytes or 256 lines of header",
    ),
]


def run(coroutine: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))


async def look(text: str, vip: IPv4Address = LOCAL) -> str | None:
    return await probe.look(parse_check(text), vip, lambda _future: None)


def free_port(address: str = str(LOCAL)) -> int:
    """A port on which nobody listens."""
    with socket.create_server((address, 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.parametrize(("answer", "reason"), ANSWERS)
def test_an_http_answer_is_judged_by_its_status(answer: bytes, reason: str | None) -> None:
    async def scenario() -> None:
        async with serving(answering(answer)) as port:
            assert await look(f"http://:{port}/health") == reason

    run(scenario())


@pytest.mark.parametrize(
    ("begin", "piece", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 65536 * b"x", None),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n", "more than 16384 bytes or 256 lines of header"),
        (b"", 65536 * b"x", "a line of more than 16384 bytes in the answer's header"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "no end of interim answers"),
    ],
)
def test_an_answer_without_end_is_cut(begin: bytes, piece: bytes, reason: str | None) -> None:
    async def scenario() -> None:
        async with serving(repeating(begin, piece, 0)) as port:
            assert await look(f"http://:{port}/") == reason

    run(scenario())


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("", "127.0.0.1:{port}"),
        ("www.example.com", "www.example.com:{port}"),
        ("localhost", "localhost:{port}"),
    ],
)
def test_a_request_asks_for_the_host_and_path_of_the_url(host: str, said: str) -> None:
    asked: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        await writer.drain()

    async def scenario() -> None:
        async with serving(handler) as port:
            assert await look(f"http://{host}:{port}/a/b?c=d%20e") is None
            first, *headers = asked[0].decode().split("\r\n")
            assert first == "GET /a/b?c=d%20e HTTP/1.1"
            assert f"Host: {said.format(port=port)}" in headers
            assert "Connection: close" in headers

    run(scenario())


def test_https_takes_any_certificate_and_asks_by_name(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Authority(tmp_path, "someone").issue("else"))
    names: list[str | None] = []
    context.sni_callback = lambda _connection, name, _context: names.append(name)

    async def scenario() -> None:
        async with serving(answering(OK), context) as port:
            for host in ("", "127.0.0.1", "www.example.com.", "localhost"):
                assert await look(f"https://{host}:{port}/") is None
            assert (await look(f"http://:{port}/")) in (
                "connection closed before an answer",
                "no HTTP answer",
                "connection reset by peer",
            )
        async with serving(repeating(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", 1000)) as port:
            assert await look(f"https://:{port}/") in (
                "no TLS: wrong version number",
                "no TLS: record layer failure",
            )
        async with serving(repeating(b"", b"", 1000)) as port:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(look(f"https://:{port}/"), 0.1)

    run(scenario())
    assert names == [None, None, "www.example.com", "localhost"]


def test_a_tcp_check_is_whether_somebody_listens() -> None:
    async def scenario() -> None:
        async with serving(silent) as port:
            assert await look(f"tcp:{port}") is None
            assert await look(f"tcp:127.0.0.1:{port}", VIP) is None
            # The VIP is not here, and another host's service is not this one's.
            assert await look(f"tcp:{port}", VIP) == f"{VIP} is not an address of this host"
            assert (
                await look(f"http://www.example.com:{port}/", VIP)
                == f"{VIP} is not an address of this host"
            )
        for kind in ("tcp:{}", "http://:{}/"):
            assert await look(kind.format(free_port())) == "connection refused"

    run(scenario())


def test_a_service_on_ipv6_is_looked_at() -> None:
    async def scenario() -> None:
        server = await asyncio.start_server(answering(OK), "::1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            assert await look(f"tcp:[::1]:{port}", VIP) is None
            assert await look(f"http://[::1]:{port}/", VIP) is None
            assert (
                await look(f"tcp:[2001:db8::1]:{port}", VIP)
                == "2001:db8::1 is not an address of this host"
            )

    run(scenario())


def test_a_file_is_up_while_it_is_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "web.up"
        assert await look(f"file:{path}") == "no such file or directory"
        path.touch()
        assert await look(f"file:{path}") is None
        assert await look(f"file:{path}/x") == "not a directory"

    run(scenario())


def test_a_program_says_by_its_status_whether_it_is_up(tmp_path: Path) -> None:
    async def scenario() -> None:
        program = script(tmp_path, 'echo "is $1 at $MAGLEV0_VIP"; exit $2')
        assert await look(f"exec:{program} 'a b' 0") is None
        assert await look(f"exec:{program} 'a b' 3") == f"exit status 3: is a b at {LOCAL}"
        assert await look("exec:/bin/false") == "exit status 1"
        assert await look("exec:/usr/bin/yes") == "it printed more than 1048576 bytes"
        reason = await look(f"exec:{tmp_path}/missing")
        assert reason is not None
        assert reason.startswith("exit status 127: ")

    run(scenario())


def test_a_program_is_killed_when_the_look_is_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        with lives(tmp_path) as processes:
            program = script(
                tmp_path, f"trap '' TERM; exec 9>{processes.path}; echo a >&9; sleep 1000"
            )
            kept: list[asyncio.Future[object]] = []
            looking = asyncio.create_task(
                probe.look(parse_check(f"exec:{program}"), LOCAL, kept.append)
            )
            await processes.begun()
            looking.cancel()
            await asyncio.wait([looking])
            assert looking.cancelled()
            await processes.ended()
            await asyncio.gather(*kept)

    run(scenario())


@pytest.mark.kernel
def test_only_this_hosts_own_service_counts_wherever_the_vip_is() -> None:
    """A neighbour with the VIP does not count; this host's service counts once the VIP is here."""
    with one_host() as host:
        other = f"{host.name}-other"
        network.make_namespace(other)
        try:
            host.network.plug("other", TRAFFIC, Socket(other, "eth0", NEIGHBOUR))
            with namespace.inside(other):
                add_address(VIP)
                theirs = socket.create_server((str(VIP), 8080))
            port = 8080
            with theirs, socket.create_connection((str(VIP), port), PATIENCE_S):
                run(nothing_of_the_neighbours_counts(port))
                Path("/proc/sys/net/ipv4/ip_nonlocal_bind").write_text("1")
                assert asyncio.run(look(f"tcp:{port}", VIP)) is not None
                Path("/proc/sys/net/ipv4/ip_nonlocal_bind").write_text("0")
                add_address(VIP)
                run(own_service_counts(port))
            with namespace.inside(other):
                container = socket.create_server((str(NEIGHBOUR), 8081))
            with container:
                subprocess.run(["nft", PUBLISHED], check=True)
                assert asyncio.run(look(f"tcp:{ADDRESS}:80")) is None
        finally:
            namespace.remove(other)


async def nothing_of_the_neighbours_counts(port: int) -> None:
    assert await look(f"tcp:{port}", VIP) == f"{VIP} is not an address of this host"
    assert (
        await look(f"tcp:{NEIGHBOUR}:{port}", VIP) == f"{NEIGHBOUR} is not an address of this host"
    )


async def own_service_counts(port: int) -> None:
    assert await look(f"tcp:{port}", VIP) == "connection refused"
    for listening in (str(VIP), "0.0.0.0"):  # noqa: S104  in a namespace of its own
        with socket.create_server((listening, port)):
            assert await look(f"tcp:{port}", VIP) is None
    with socket.create_server((str(ADDRESS), port)):
        assert await look(f"tcp:{ADDRESS}:{port}", VIP) is None
        assert await look(f"tcp:{port}", VIP) == "connection refused"


@pytest.mark.kernel
def test_a_connection_to_itself_is_no_service() -> None:
    """If the only free port to connect from is the target port, TCP connects to itself."""
    with one_host():
        only_port(40000)
        with socket.create_connection((str(ADDRESS), 40000), PATIENCE_S) as itself:
            assert itself.getsockname() == itself.getpeername()
        only_port(40001)
        assert asyncio.run(look(f"tcp:{ADDRESS}:40001", VIP)) == "connection refused"


def add_address(address: IPv4Address) -> None:
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "eth0"], check=True)


def only_port(port: int) -> None:
    """Let the kernel choose no other port to connect from."""
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{port} {port}")
