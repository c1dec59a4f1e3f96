"""A small HTTP server: each connection has its own thread, few at a time and none for long."""

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

MAX_CONNECTIONS = 8  # a few Prometheus servers and a browser; each has a thread while it lasts
MAX_CONNECTION_S = 5.0  # a scrape takes milliseconds, and Prometheus gives up after 10 s
LOOK_S = 0.5  # between two searches for connections that last too long, while there are any


class HttpServer(ThreadingMixIn, HTTPServer):
    """Serves an address with a handler class of the library.

    The constructor raises OSError where the address cannot be had. `begin`, then `end`, which waits
    for no client. A connection is cut after `MAX_CONNECTION_S`, and earlier where a further one
    needs its place: then the oldest is cut, since a scrape takes only an instant.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._lock = threading.Lock()
        # When each open connection began, the oldest first.
        self._since: dict[socket.socket, float] = {}
        super().__init__((address, port), handler)

    def begin(self) -> None:
        """Serve from now on, in a thread."""
        self._thread.start()

    def end(self) -> None:
        """Stop serving."""
        self._ended.set()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # refuses from now on, and wakes the thread
        self._thread.join(LOOK_S)
        self._cut(0)

    def _serve(self) -> None:
        # The thread that polls the socket closes it. If another one did, poll(2) might find another
        # file under the same number.
        with self:
            while not self._ended.is_set():
                self.timeout = LOOK_S if self._since else None
                self.handle_request()
                self._cut(MAX_CONNECTIONS, time.monotonic() - MAX_CONNECTION_S)

    def server_bind(self) -> None:
        """Bind without asking a name server for the name of this host, as the library does."""
        super(HTTPServer, self).server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; where that fails, as without free descriptors, pause before the next attempt."""
        try:
            return super().get_request()
        except OSError:
            self._ended.wait(LOOK_S)
            raise

    def process_request(self, request: socket.socket, client_address: Any) -> None:  # type: ignore[override]
        """Cut the oldest connections above the limit, then serve this one in a thread."""
        self._cut(MAX_CONNECTIONS - 1)
        with self._lock:
            self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def close_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Forget a connection that has ended."""
        with self._lock:
            self._since.pop(request, None)
        super().close_request(request)

    def _cut(self, most: int, since_s: float = 0.0) -> None:
        """Cut connections that began before `since_s`, and the oldest ones beyond `most`.

        Their threads end, since they can neither read nor write any more.
        """
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
        """Log at debug level only: a client that hangs up is no error."""
        del request
        log.debug("answering %s: %r", client_address, sys.exception())
