"""What a running daemon applies from a changed file, and what needs a restart."""

from __future__ import annotations

from typing import Any

import pytest

from maglev0.config.configuration import (
    FLAGS,
    RELOADABLE,
    REPEATABLE,
    SWITCHES,
    changes,
    parse,
    taken_over,
)
from tests.support.flags import DEFAULTS, LEFT_OUT, parsed

OTHERWISE: dict[str, Any] = {
    "--my-id": "2",
    "--total-nodes": "7",
    "--zk": "zk1",
    "--cluster-ip": "198.51.100.1,198.51.100.2",
    "--interface": "eth1",
    "--dataplane": "nftables",
    "--cluster-mac": "03:bf:c6:33:64:01",
    "--hash-mode": "sourceip-sourceport",
    "--hash-seed": "1",
    "--session-timeout": "5",
    "--weight": "2",
    "--drain-timeout": "31",
    "--xdp": "off",
    "--zk-loss": "hold",
    "--check": ["tcp:80"],
    "--check-timing": "2,1,2,4",
    "--notify": "/bin/true",
    "--metrics": "127.0.0.1:9105",
    "--zk-auth": "digest:maglev0:/etc/maglev0/password",
    "--zk-ca": "/ca",
    "--dry-run": True,
    "--verbose": True,
}
TOGETHER = ("--zk-cert", "--zk-key")


@pytest.mark.parametrize("flag", OTHERWISE)
def test_what_a_running_daemon_takes_over_and_what_needs_a_restart(flag: str) -> None:
    wanted = parse({**LEFT_OUT, flag: OTHERWISE[flag]}, DEFAULTS)
    assert changes(parsed(), wanted) == (((flag,), ()) if flag in RELOADABLE else ((), (flag,)))
    assert changes(wanted, wanted) == ((), ())


def test_every_flag_is_compared() -> None:
    assert FLAGS == {*LEFT_OUT} == {*OTHERWISE, *TOGETHER}
    assert FLAGS - DEFAULTS.keys() == SWITCHES | REPEATABLE
    wanted = parse({**LEFT_OUT, **OTHERWISE, "--zk-cert": "/cert", "--zk-key": "/key"}, DEFAULTS)
    can, cannot = changes(parsed(), wanted)
    assert (frozenset(can), frozenset(cannot)) == (RELOADABLE, FLAGS - RELOADABLE)
    taken = taken_over(parsed(), wanted)
    assert changes(taken, wanted) == ((), cannot)
    assert changes(parsed(), taken) == (can, ())


def test_the_order_of_vips_means_nothing() -> None:
    assert changes(
        parsed(cluster_ip="198.51.100.1,198.51.100.2"),
        parsed(cluster_ip="198.51.100.2,198.51.100.1"),
    ) == ((), ())
