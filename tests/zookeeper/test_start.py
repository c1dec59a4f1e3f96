"""Starts without a working ZooKeeper: the daemon says why once, retries, and joins when it can."""

from __future__ import annotations

import itertools
import signal
from typing import TYPE_CHECKING

import pytest

from tests.zookeeper import strangers
from tests.zookeeper.site import free_port
from tests.zookeeper.strangers import Stranger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from maglev0.lab.testbed.zookeeper import Ensemble
    from tests.zookeeper.site import Site

pytestmark = pytest.mark.zookeeper

# With delays that grow to 2 s, these take long enough for two looks for the reason.
ATTEMPTS = 9
TELLING = r"no ZooKeeper session, retrying: "

STRANGERS = {
    "speaks first": (strangers.greet, "is not a ZooKeeper server"),
    "answers something else": (strangers.answer_http, "is not a ZooKeeper server"),
    "hangs up": (strangers.hang_up, "closes connections"),
    "resets": (strangers.reset, "closes connections"),
}


def test_servers_that_are_down_are_told_once_and_joined_when_they_are_up(
    site: Site, ensemble: Ensemble
) -> None:
    for server in ensemble.servers:
        server.kill()
    node = site.start(1, "--verbose")
    node.wait_count("Connecting to", ATTEMPTS * len(ensemble.servers))
    assert (
        node.count(
            TELLING
            + "; ".join(f"{server.address} refuses connections" for server in ensemble.servers)
        )
        == 1
    )
    assert node.count(TELLING) == 1
    for server in ensemble.servers:
        server.start()
    site.agreed(node)


def test_servers_without_a_quorum_are_told_once_and_joined_when_they_have_one(
    site: Site, ensemble: Ensemble
) -> None:
    lone, *others = ensemble.servers
    for server in others:
        server.kill()
    node = site.start(1, "--verbose", zk=lone.address)
    node.wait_count("Connecting to", ATTEMPTS)
    assert node.count(TELLING + f"{lone.address} runs, but has no quorum") == 1
    assert (
        node.count(TELLING) <= 2
    )  # in its first moment without the others it may still count as serving
    for server in others:
        server.start()
    site.agreed(node)


@pytest.mark.parametrize(("treat", "telling"), STRANGERS.values(), ids=STRANGERS.keys())
def test_what_is_no_zookeeper_is_told_once_and_asked_ever_less_often(
    site: Site, treat: Callable[[object], None], telling: str
) -> None:
    with Stranger(treat) as stranger:
        node = site.start(1, "--verbose", zk=stranger.address)
        node.wait_count("Connecting to", ATTEMPTS)
        assert node.count(TELLING + f"{stranger.address} {telling}") == 1
        assert node.count(TELLING) == 1
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(stranger.visits_s)]
    assert sum(gaps_s[-4:]) > 2 * sum(gaps_s[:4])
    node.stop()


@pytest.mark.parametrize(
    "treat",
    [
        *(case[0] for case in STRANGERS.values()),
        strangers.deny_session,
        strangers.speak_unasked,
        strangers.answer_another,
    ],
    ids=lambda treat: treat.__name__,
)
def test_a_stranger_among_the_servers_keeps_nobody_from_joining(
    site: Site, ensemble: Ensemble, treat: Callable[[object], None]
) -> None:
    for server in ensemble.servers:
        server.kill()
    with Stranger(treat) as stranger:
        node = site.start(1, zk=f"{stranger.address},{ensemble.connect_string}")
        node.wait_line("ZooKeeper")
        for server in ensemble.servers:
            server.start()
        site.agreed(node)
        assert stranger.visits_s


def test_a_name_that_does_not_resolve_is_told_and_keeps_nobody_from_joining(
    site: Site, ensemble: Ensemble
) -> None:
    for server in ensemble.servers:
        server.kill()
    node = site.start(1, zk=f"zookeeper.invalid:2181,{ensemble.connect_string}")
    node.wait_line(TELLING + r"zookeeper\.invalid:2181: the name does not resolve; ")
    for server in ensemble.servers:
        server.start()
    site.agreed(node)


def test_who_is_told_to_stop_before_zookeeper_was_ever_there_does(site: Site) -> None:
    node = site.start(1, zk=f"127.0.0.1:{free_port()}")
    node.wait_line(TELLING)
    node.stop()


def test_who_is_told_to_stop_while_the_servers_are_silent_does(
    site: Site, ensemble: Ensemble
) -> None:
    for server in ensemble.servers:
        server.freeze()
    node = site.start(1)
    node.wait_line(TELLING + f"{ensemble.servers[0].address} does not answer")
    node.stop()


def test_who_is_told_to_stop_while_the_name_server_is_silent_does(
    site: Site, tmp_path: Path
) -> None:
    with strangers.silent_name_server() as address:
        (tmp_path / "resolv.conf").write_text(
            f"nameserver {address}\noptions timeout:30 attempts:1\n"
        )
        elsewhere = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && exec "$@"',
            "sh",
        ]
        node = site.start(1, zk="zookeeper.example:2181", prefix=elsewhere)
        node.wait_line(TELLING + "zookeeper.example:2181 does not answer")
        node.stop()


@pytest.mark.parametrize(
    "line",
    [
        "connected to ZooKeeper",
        "wrote the cluster's settings",
        r"VIP \S+ on",
        "joined as",
        r"\[1\]",
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_told_to_stop_while_starting_leaves_nothing(
    site: Site, line: str, number: signal.Signals
) -> None:
    node = site.start(1)
    node.wait_line(line)
    node.process.signal(number)
    assert node.ends() == 0
    site.client.sync(site.base)
    assert site.owner(1) == 0
