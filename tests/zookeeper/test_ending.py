"""A daemon that hangs ends itself, and one that is told to stop does so whatever ZooKeeper does."""

from __future__ import annotations

import fcntl
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from maglev0.lab.testbed.process import python_module
from tests.zookeeper.site import DEADLINE_S, TIMEOUT_S, Node, eventually

if TYPE_CHECKING:
    from maglev0.lab.testbed.zookeeper import Ensemble
    from tests.zookeeper.site import Site

pytestmark = pytest.mark.zookeeper

HANG_STATUS = 70


def test_a_daemon_whose_output_nobody_reads_ends_and_others_take_over(site: Site) -> None:
    (other,) = site.joined(1)
    reading, writing = os.pipe()
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, os.sysconf("SC_PAGE_SIZE"))
        arguments = [
            f"--zk={site.ensemble.connect_string}{site.chroot}",
            f"--session-timeout={TIMEOUT_S}",
            "--dry-run",
            "--my-id=2",
            "--verbose",
        ]
        with subprocess.Popen(
            python_module("maglev0", *arguments), stdout=writing, stderr=subprocess.PIPE, text=True
        ) as hanging:
            try:
                other.wait_line(r"\[1 2\]")
                _make_it_talk(site, hanging)
                assert hanging.wait(DEADLINE_S) == HANG_STATUS
                assert hanging.stderr is not None
                stacks = hanging.stderr.read()
            finally:
                hanging.kill()
    finally:
        os.close(reading)
        os.close(writing)
    assert stacks.startswith("maglev0: the main loop has hung for 1.0 s")
    assert "logging" in stacks
    site.wait_gone(2)
    site.agreed(other)


def _make_it_talk(site: Site, process: subprocess.Popen[str]) -> None:
    """Give it new offences to report, each once, until it writes into a full pipe."""
    for number in range(400):
        site.client.create(f"{site.members_path}/{'x' * 60}{number}")
        if _blocked_in_pipe(process.pid):
            return
    eventually(lambda: _blocked_in_pipe(process.pid), "it never filled its pipe")


def _blocked_in_pipe(pid: int) -> bool:
    with open(f"/proc/{pid}/wchan") as file:  # noqa: PTH123
        return "pipe" in file.read()


def test_a_daemon_whose_output_is_closed_goes_on(site: Site) -> None:
    """A log reader that went away is no reason to stop serving."""
    (other,) = site.joined(1)
    reading, writing = os.pipe()
    arguments = [
        f"--zk={site.ensemble.connect_string}{site.chroot}",
        f"--session-timeout={TIMEOUT_S}",
        "--dry-run",
        "--my-id=2",
    ]
    with subprocess.Popen(
        python_module("maglev0", *arguments), stdout=writing, stderr=subprocess.PIPE, text=True
    ) as speaking:
        os.close(writing)
        os.close(reading)
        try:
            other.wait_line(r"\[1 2\]")
            third = site.start(3)
            third.wait_line(r"\[1 2 3\]")
            speaking.terminate()
            assert speaking.wait(DEADLINE_S) == 0
            assert speaking.stderr is not None
            assert speaking.stderr.read() == ""
        finally:
            speaking.kill()
    site.agreed(other, third)


@pytest.mark.parametrize("silence", ["freeze", "kill"])
def test_who_is_told_to_stop_after_zookeeper_went_away_does(
    site: Site, ensemble: Ensemble, silence: str
) -> None:
    (node,) = site.joined(1)
    for server in ensemble.servers:
        getattr(server, silence)()
    node.wait_line(
        r"lease expired .* after the last ZooKeeper renewal: refusing new connections in 5 buckets;"
    )
    node.stop()


@pytest.mark.parametrize("silence", ["freeze", "kill"])
def test_who_is_told_to_stop_the_moment_zookeeper_goes_away_does(
    site: Site, ensemble: Ensemble, silence: str
) -> None:
    (node,) = site.joined(1)
    for server in ensemble.servers:
        getattr(server, silence)()
    node.stop()
    assert node.lines[-1] == "backend-1 left"


def test_a_large_table_does_not_hold_up_the_end(site: Site) -> None:
    """Told to stop while the table of a million node numbers is being computed."""
    node: Node = site.start(1, "--total-nodes=1048576", timeout_s=4)
    node.wait_line("joined as")
    node.stop()
