"""Clients of the lab's VIP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from maglev0.lab.testbed import addresses, namespace
from maglev0.lab.testbed.cluster import Lab

ANSWER_S = 5.0  # the longest wait for an answer when all cores are busy


@contextmanager
def client_socket(cluster: Lab, client: int, kind: socket.SocketKind) -> Iterator[socket.socket]:
    """Open a socket bound to the address of this client."""
    with namespace.inside(cluster.client):
        sock = socket.socket(socket.AF_INET, kind)
    with sock:
        sock.settimeout(ANSWER_S)
        sock.bind((str(addresses.client_address(client)), 0))
        yield sock
