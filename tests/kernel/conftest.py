"""A host of one's own for each test: a network namespace with one link that is up, entered by the test's thread."""

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
    """The namespace that the test runs in, and the switch that its one link leads to."""

    name: str
    network: Network

    def run(self, *command: str) -> str:
        """Run a program here and return what it prints."""
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def ruleset(self) -> str:
        """Everything that nft lists here."""
        return self.run("nft", "list", "ruleset")

    def addresses(self) -> str:
        """The addresses of the link."""
        return self.run("ip", "-brief", "address", "show", "dev", INTERFACE)

    def multicast(self) -> str:
        """The MAC addresses that the link receives besides its own."""
        return self.run("ip", "maddress", "show", "dev", INTERFACE)


@pytest.fixture
def host() -> Iterator[Host]:
    assert os.geteuid() == 0, "this test makes network namespaces and must run as root"
    with one_host() as made:
        yield Host(made.name, made.network)


@pytest.fixture
def bpf() -> Iterator[Path]:
    """The BPF file system of a host of this test's own, in whose namespace it runs."""
    from tests.kernel.xdp import alone  # noqa: PLC0415  it imports this module

    with alone() as file_system:
        yield file_system
