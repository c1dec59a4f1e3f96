"""A host for each test: a network namespace with one link that is up.

The test's thread is in the namespace.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from maglev0.lab.testbed.network import Network
from tests.support.one_host import INTERFACE, one_host


@dataclass(frozen=True)
class Host:
    """The namespace that the test runs in, and the switch that its one link connects to."""

    name: str
    network: Network

    def run(self, *command: str) -> str:
        """Run a program in the namespace; return its standard output."""
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def ruleset(self) -> str:
        """Return everything that nft lists in the namespace."""
        return self.run("nft", "list", "ruleset")

    def addresses(self) -> str:
        """Return the addresses of the link."""
        return self.run("ip", "-brief", "address", "show", "dev", INTERFACE)

    def multicast(self) -> str:
        """Return the MAC addresses that the link receives besides its own."""
        return self.run("ip", "maddress", "show", "dev", INTERFACE)


@pytest.fixture
def host() -> Iterator[Host]:
    assert os.geteuid() == 0, "this test creates network namespaces and must run as root"
    with one_host() as made:
        yield Host(made.name, made.network)


@pytest.fixture
def bpf() -> Iterator[Path]:
    """The BPF file system of a separate host; the test runs in that host's namespace."""
    from tests.kernel.xdp import alone  # noqa: PLC0415  it imports this module

    with alone() as file_system:
        yield file_system
