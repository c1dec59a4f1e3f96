"""One host of one's own: a network namespace with one link that is up, on a switch, entered by the calling thread."""

from __future__ import annotations

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
    """The namespace's name, the switch that its one link leads to, and a directory that goes with them."""

    name: str
    network: Network
    directory: Path

    def mount_bpf(self) -> Path:
        """A BPF file system of its own."""
        place = self.directory / "bpf"
        place.mkdir()
        libc.mount_bpf(str(place))
        return place


@contextmanager
def one_host() -> Iterator[OneHost]:
    """Make it, and remove all of it."""
    mine = claim.claim()
    try:
        switch = Network(mine.namespace("switch"))
        switch.create()
        name = mine.namespace("host")
        network.make_namespace(name)
        switch.plug(CABLE, TRAFFIC, Socket(name, INTERFACE, ADDRESS))
        with namespace.inside(name):
            yield OneHost(name, switch, mine.directory)
    finally:
        claim.remove(mine.name)
        mine.release()
