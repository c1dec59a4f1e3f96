"""The client counts the answers: faults are planted in real kernels, without a daemon."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from maglev0.lab.testbed import addresses
from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.traffic.probe import ProbePlan
from tests.support.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.kernel, pytest.mark.zookeeper]

MULTICAST_MAC = "01:00:5e:33:64:01"
PROTOCOLS = ("tcp", "udp", "ping")
PLAN = ProbePlan(requests=300, clients=30, protocols=PROTOCOLS, deadline_s=0.5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Lab]:
    with Lab(LabSettings(nodes=2)) as lab:
        # As a cluster's ARP would: whatever the client sends to the VIP, every node sees.
        _run(
            lab.client,
            f"ip neighbour add {addresses.VIP} lladdr {MULTICAST_MAC} nud permanent dev eth0",
        )
        yield lab


@pytest.fixture(autouse=True)
def _nothing_planted(cluster: Lab) -> Iterator[None]:
    yield
    for number in cluster.nodes:
        _plant(cluster, number, "flush ruleset")
        _run(cluster.nodes[number].machine.namespace, "ip address flush dev lo to 198.51.100.0/24")


def test_one_answerer_is_counted_once(cluster: Lab) -> None:
    _serve_everything(cluster, 1)
    report = cluster.probe(PLAN)
    assert report.clean, report.summary()
    assert report.shares() == {"backend-1": 300}
    assert {exchange.protocol for exchange in report.exchanges} == set(PROTOCOLS)
    assert report.clients == 30


def test_two_answerers_are_counted_twice(cluster: Lab) -> None:
    _serve_everything(cluster, 1)
    _serve_everything(cluster, 2)
    report = cluster.probe(PLAN)
    assert (report.once, report.twice, report.never) == (0, 300, 0)
    assert report.shares() == {"backend-1": 300, "backend-2": 300}


def test_a_second_node_that_only_refuses_is_an_answer_too(cluster: Lab) -> None:
    """A 'port unreachable' from a node whose flow it is not disturbs the client as a second answer
    does.
    """
    _serve_everything(cluster, 1)
    _serve_everything(cluster, 2)
    _plant(
        cluster,
        2,
        f"add rule ip planted incoming udp dport {addresses.SERVICE_PORT} udp dport set 9",
    )
    report = cluster.probe(ProbePlan(requests=4, clients=2, protocols=("udp",)))
    assert (report.once, report.twice, report.never) == (0, 4, 0)


def test_a_client_nobody_answers_is_counted_never(cluster: Lab) -> None:
    _serve_everything(cluster, 1)
    deaf = addresses.client_address(7)
    _plant(cluster, 1, f"add rule ip planted incoming ip saddr {deaf} drop")
    report = cluster.probe(PLAN)
    assert (report.once, report.twice, report.never) == (290, 0, 10)
    assert {exchange.client for exchange in report.exchanges if not exchange.times_answered} == {
        str(deaf)
    }


def test_an_answer_after_the_deadline_is_late_not_lost(cluster: Lab) -> None:
    """A machine too busy to answer in time must not look like a cluster that does not answer."""
    _serve_everything(cluster, 1)
    service = cluster.nodes[1].responder
    with cluster.probing(
        ProbePlan(clients=5, rate_per_s=50.0, deadline_s=0.2, protocols=("udp",))
    ) as probing:
        service.signal(signal.SIGSTOP)
        probing.let_all_ask(rounds=8)
        service.signal(signal.SIGCONT)
    report = probing.report
    assert report.clean, report.summary()
    assert report.delay_s(1.0) > 0.3


def test_probing_tells_how_long_a_client_went_without(cluster: Lab) -> None:
    _serve_everything(cluster, 1)
    deaf = addresses.client_address(3)
    with cluster.probing(
        ProbePlan(clients=10, rate_per_s=200.0, deadline_s=0.3, protocols=("udp",))
    ) as probing:  # a drop is one request
        _plant(cluster, 1, f"add rule ip planted incoming ip saddr {deaf} counter drop")
        _await_drops(cluster, 1, 4)
        _plant(
            cluster,
            1,
            "flush chain ip planted incoming; add rule ip planted incoming meta pkttype set host",
        )
        probing.let_all_ask(rounds=4)
    (outage,) = probing.report.outages()
    assert outage.client == str(deaf)
    assert outage.unanswered >= 4
    assert outage.until_s is not None
    # At least four drops in a row, with 50 ms between a client's requests.
    assert outage.until_s - outage.since_s > 0.15


def _serve_everything(cluster: Lab, number: int) -> None:
    _run(cluster.nodes[number].machine.namespace, f"ip address add {addresses.VIP}/32 dev lo")
    # At raw's priority, before anything else; a frame to a multicast MAC is no host's packet, which
    # TCP would refuse.
    _plant(
        cluster,
        number,
        "add table ip planted; "
        "add chain ip planted incoming { type filter hook prerouting priority -300; }; "
        "add rule ip planted incoming meta pkttype set host",
    )


def _plant(cluster: Lab, number: int, rules: str) -> None:
    _run(cluster.nodes[number].machine.namespace, "nft -f -", rules.replace("; add", "\nadd"))


def _await_drops(cluster: Lab, number: int, count: int) -> None:
    """Wait until the planted rule has dropped so many packets; the kernel sends no event."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        listing = _run(
            cluster.nodes[number].machine.namespace, "nft list chain ip planted incoming"
        )
        if int(re.findall(r"packets (\d+) bytes \d+ drop", listing)[0]) >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"fewer than {count} packets were dropped within {PATIENCE_S} s")


def _run(namespace: str, command: str, text: str | None = None) -> str:
    inside = ["nsenter", f"--net=/run/netns/{namespace}", *command.split()]
    return subprocess.run(inside, input=text, text=True, check=True, capture_output=True).stdout
