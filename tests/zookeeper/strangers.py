"""TCP servers that are not ZooKeeper, and a proxy that spoils data on request."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ANSWER_TIMEOUT_S = 0.2


class Stranger:
    """A listening port of 127.0.0.1; each connection is handed to `treat`, and its time noted."""

    def __init__(self, treat: Callable[[socket.socket], None]) -> None:
        self.visits_s: list[float] = []
        self._treat = treat
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.visits_s.append(time.monotonic())
            with connection, suppress(OSError):
                connection.settimeout(ANSWER_TIMEOUT_S)
                self._treat(connection)


def greet(connection: socket.socket) -> None:
    """Speak first, as mail and shell servers do."""
    connection.sendall(b"SSH-2.0-stranger\r\n")
    connection.recv(1024)


def answer_http(connection: socket.socket) -> None:
    """Answer whatever comes."""
    connection.recv(1024)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


def hang_up(_connection: socket.socket) -> None:
    """Say nothing and close."""


def reset(connection: socket.socket) -> None:
    """Close with a reset instead of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def deny_session(connection: socket.socket) -> None:
    """Answer every request for a session with: that one has expired."""
    connection.recv(1024)
    answer = struct.pack(">iiqi16s", 0, 0, 0, 16, bytes(16))
    connection.sendall(struct.pack(">i", len(answer)) + answer)
    connection.recv(1024)


def speak_unasked(connection: socket.socket) -> None:
    """Grant a session, then answer a request that nobody has made yet."""
    _grant(connection)
    _answer_another(connection)


def answer_another(connection: socket.socket) -> None:
    """Grant a session, then answer another request than the one that was made."""
    _grant(connection)
    connection.recv(1024)
    _answer_another(connection)


def _grant(connection: socket.socket) -> None:
    connection.recv(1024)
    answer = struct.pack(">iiqi16s", 0, 1000, 77, 16, bytes(16))
    connection.sendall(struct.pack(">i", len(answer)) + answer)


def _answer_another(connection: socket.socket) -> None:
    reply = struct.pack(">iqi", 4242, 1, 0)
    connection.sendall(struct.pack(">i", len(reply)) + reply)
    connection.recv(1024)


@contextmanager
def silent_name_server() -> Iterator[str]:
    """The address of a silent name server on port 53, as text for resolv.conf(5)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.77", 53))
        yield "127.0.0.77"
