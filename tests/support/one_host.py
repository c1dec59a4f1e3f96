"""A host for one test: a network namespace with one link, which is up and leads to a switch.

The calling thread enters the namespace, and daemons in this process and its children leave their
files in a runtime directory that goes with the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from maglev0.lab.testbed import claim, libc, namespace, network
from maglev0.lab.testbed.network import TRAFFIC, Network, Socket

ADDRESS = IPv4Address("198.18.0.1")
INTERFACE = "eth0"
CABLE = "host"


class OneHost(NamedTuple):
    """The namespace's name, the switch that its link leads to, and a directory for its files."""

    name: str
    network: Network
    directory: Path

    def mount_bpf(self) -> Path:
        """Mount a BPF file system for this host; return where."""
        place = self.directory / "bpf"
        place.mkdir()
        libc.mount_bpf(str(place))
        return place


@contextmanager
def one_host() -> Iterator[OneHost]:
    """Make a host, and remove all of it at the end."""
    mine = claim.claim()
    try:
        switch = Network(mine.namespace("switch"))
        switch.create()
        name = mine.namespace("host")
        network.make_namespace(name)
        switch.plug(CABLE, TRAFFIC, Socket(name, INTERFACE, ADDRESS))
        run = mine.directory / "run"
        run.mkdir(mode=0o700)
        with namespace.inside(name), environment("RUNTIME_DIRECTORY", str(run)):
            yield OneHost(name, switch, mine.directory)
    finally:
        claim.remove(mine.name)
        mine.release()


@contextmanager
def environment(variable: str, value: str) -> Iterator[None]:
    """Set a variable for this process and its children."""
    before = os.environ.get(variable)
    os.environ[variable] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
