"""A small HTTP server for whoever asks: each connection in a thread of its own, few at a time and none for long."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any

log = logging.getLogger(__name__)

MAX_CONNECTIONS = (
    8  # a few Prometheus servers and somebody with a browser; each costs a thread while it lasts
)
MAX_CONNECTION_S = 5.0  # a scrape takes milliseconds; Prometheus itself gives up after 10 s
LOOK_S = 0.5  # between two looks for connections that last too long, while there are any


class HttpServer(ThreadingMixIn, HTTPServer):
    """Answers at an address with what a handler class of the library makes; the constructor raises OSError where it cannot be had.

    `begin`, then `end`, which waits for no client. Who is slow is cut off in the end, and at once where others wait for the place: the one that has
    had it for longest, for a scrape is over in an instant.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._lock = threading.Lock()
        self._since: dict[
            socket.socket, float
        ] = {}  # when each connection that is open began, the oldest first
        super().__init__((address, port), handler)

    def begin(self) -> None:
        """Answer from now on, in a thread."""
        self._thread.start()

    def end(self) -> None:
        """Answer no more."""
        self._ended.set()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # refuses from here on, and wakes the thread
        self._thread.join(LOOK_S)
        self._cut(0)

    def _serve(self) -> None:
        # Closed by the one who waits at it: a number that is closed under poll(2) may be another file's when that looks again.
        with self:
            while not self._ended.is_set():
                self.timeout = LOOK_S if self._since else None
                self.handle_request()
                self._cut(MAX_CONNECTIONS, time.monotonic() - MAX_CONNECTION_S)

    def server_bind(self) -> None:
        """Bind, without asking a name server what we are called, as the library would."""
        super(HTTPServer, self).server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; where that fails, as for want of descriptors, not again at once."""
        try:
            return super().get_request()
        except OSError:
            self._ended.wait(LOOK_S)
            raise

    def process_request(self, request: socket.socket, client_address: Any) -> None:  # type: ignore[override]
        """Make room, then go on in a thread."""
        self._cut(MAX_CONNECTIONS - 1)
        with self._lock:
            self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def close_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """The connection is over."""
        with self._lock:
            self._since.pop(request, None)
        super().close_request(request)

    def _cut(self, most: int, since_s: float = 0.0) -> None:
        """Cut off connections that began before that, and the oldest ones beyond so many: their threads find nothing more to read or write."""
        with self._lock:
            overdue = [
                one
                for place, (one, began_s) in enumerate(self._since.items())
                if began_s < since_s or place < len(self._since) - most
            ]
            for one in overdue:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                del self._since[one]

    def handle_error(self, request: object, client_address: object) -> None:
        """Who hangs up while he is answered is no news."""
        del request
        log.debug("answering %s: %r", client_address, sys.exception())
