"""What health checks look at, good and bad.

Servers, programs whose life can be watched, and a file system that never answers.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from ssl import SSLContext

from maglev0.lab.testbed import libc
from tests.support.patience import PATIENCE_S

LOCAL = IPv4Address("127.0.0.1")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def running(endless: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Beside the block; cancelled with its end."""
    task = asyncio.create_task(endless)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def serving(
    handler: Handler, tls: SSLContext | None = None, port: int = 0
) -> AsyncIterator[int]:
    """A server on this host's loopback; yields its port."""

    handling: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, EOFError):
                await handler(reader, writer)
        finally:
            writer.transport.abort()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handling.add(asyncio.create_task(one(reader, writer)))

    server = await asyncio.start_server(accepted, str(LOCAL), port, ssl=tls)
    async with server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            for task in handling:
                task.cancel()
            await asyncio.gather(*handling, return_exceptions=True)


def answering(answer: bytes) -> Handler:
    """Reads the request's header, says this, and closes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return handler


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Accepts, reads, and says nothing."""
    while await reader.read(65536):
        pass


def repeating(begin: bytes, piece: bytes, pause_s: float) -> Handler:
    """Says `begin`, then `piece` again and again."""

    async def handler(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return handler


def script(directory: Path, text: str) -> Path:
    """A program of the shell's, executable."""
    path = directory / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class Lives:
    """Tells when no process is left that keeps `path` open for writing.

    In a shell `exec 9>path` opens it so.
    """

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._ours = [
            os.open(path, os.O_WRONLY)
        ]  # until the end is asked for, for there may be none between two

    async def begun(self) -> None:
        """Return when one of them has written a line into it."""
        await self._readable()
        assert os.read(self._descriptor, 65536)

    async def ended(self) -> None:
        """Return when the last of them is gone; once."""
        os.close(self._ours.pop())
        while await self._readable():
            if not os.read(self._descriptor, 65536):
                return

    def close(self) -> None:
        for descriptor in (self._descriptor, *self._ours):
            os.close(descriptor)

    async def _readable(self) -> bool:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._descriptor, readable.set)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await readable.wait()
        finally:
            loop.remove_reader(self._descriptor)


@contextmanager
def lives(directory: Path) -> Iterator[Lives]:
    made = Lives(directory / "lives")
    try:
        yield made
    finally:
        made.close()


@contextmanager
def hanging_directory(place: Path) -> Iterator[Path]:
    """A file system that answers nothing, like one of a network whose server is gone.

    It is FUSE, and nobody serves it.
    """
    place.mkdir()
    library = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    assert (
        library.mount(b"maglev0", str(place).encode(), b"fuse", ctypes.c_ulong(0), options) == 0
    ), os.strerror(ctypes.get_errno())
    try:
        yield place
    finally:
        os.close(device)  # waiting processes hear that it is gone
        libc.unmount(str(place))
