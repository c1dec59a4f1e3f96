"""Daemons on CLUSTERIP, with a real ZooKeeper and clients: one server answers each request."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from maglev0.core.service import HashMode
from maglev0.lab.testbed import namespace
from maglev0.lab.testbed.process import Process
from tests.vm.guest import space as host
from tests.vm.guest.cluster import BRISK, PATIENCE_S, PLAN, STEADY, Cluster, reported
from tests.vm.guest.space import BY_HAND

pytestmark = pytest.mark.timeout(5 * PATIENCE_S)

TOTAL_NODES = 16
LEASE_S = 6.0  # of the brisk pace: two thirds of its session timeout
QUIET_S = 5.0  # so that each change's unanswered requests can be told from those of the next


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(nodes=3) as made:
        yield made


@pytest.fixture
def daemons(cluster: Cluster) -> Iterator[dict[int, Process]]:  # noqa: ARG001  they end before what they live in
    """Those that a test has started, by their number; ended afterwards in any case."""
    started: dict[int, Process] = {}
    yield started
    for daemon in started.values():
        daemon.kill()


# One mode, for booting three clusters takes a minute and a half here: test_packethash_clusterip
# compares every mode with the kernel, and the flows of test_explain use them all.
@pytest.mark.parametrize("mode", [HashMode.SOURCE_IP_PORT])
def test_every_request_is_answered_by_exactly_one_of_three(
    cluster: Cluster, daemons: dict[int, Process], mode: HashMode
) -> None:
    flags = (f"--total-nodes={TOTAL_NODES}", f"--hash-mode={mode}", "--dataplane=clusterip")
    for number in cluster.nodes:
        daemons[number] = cluster.start_daemon(number, *flags)
    cluster.settle(daemons)
    held = [
        bucket for number in cluster.nodes for bucket in (cluster.in_force(number) or "").split(",")
    ]
    assert sorted(held, key=int) == [str(bucket) for bucket in range(1, TOTAL_NODES + 1)]
    report = cluster.probe()
    assert report.clean, report.summary()
    assert len(report.exchanges) == PLAN.requests
    assert set(report.shares()) == {f"backend-{number}" for number in cluster.nodes}
    for daemon in daemons.values():
        assert daemon.stop(PATIENCE_S) == 0, daemon.output()
    for number in cluster.nodes:
        assert cluster.in_force(number) is None
        with namespace.inside(cluster.node(number)):
            assert host.clusterip_rules() == host.addresses() == []


def test_a_rule_by_hand_is_filled_and_emptied_as_nodes_come_and_go(
    cluster: Cluster, daemons: dict[int, Process]
) -> None:
    """The original's set-up; printed as it goes, so that the run can be read."""
    for number in (1, 2):
        with namespace.inside(cluster.node(number)):
            host.iptables(BY_HAND.replace("--local-node 1", f"--local-node {number}"))
    print("# iptables-legacy", BY_HAND)  # noqa: T201
    print("# maglev0 --my-id=1 --total-nodes=5 --cluster-ip=198.51.100.1")  # noqa: T201
    flags = ("--total-nodes=5", "--cluster-ip=198.51.100.1")
    daemons[1] = cluster.start_daemon(1, *flags)
    cluster.settle(daemons)
    show(cluster, "start", "1,2,3,4,5")
    daemons[2] = cluster.start_daemon(2, *flags)
    picture = cluster.settle(daemons)
    mine = ",".join(str(bucket) for bucket, owner in picture.owners.items() if owner == "backend-1")
    assert 2 <= len(mine.split(",")) <= 3
    show(cluster, "a second node has joined", mine)
    second = daemons.pop(2)
    assert second.stop(PATIENCE_S) == 0, second.output()
    cluster.settle(daemons)
    show(cluster, "the second node has left", "1,2,3,4,5")
    assert daemons[1].stop(PATIENCE_S) == 0
    show(cluster, "SIGTERM", "")
    with namespace.inside(cluster.node(1)):
        assert len(host.clusterip_rules()) == 1
    print(daemons[1].output())  # noqa: T201


@pytest.fixture
def brisk() -> Iterator[Cluster]:
    with Cluster(nodes=3, pace=BRISK) as made:
        yield made


def test_no_packet_is_answered_twice_while_nodes_join_leave_and_die(
    brisk: Cluster, daemons: dict[int, Process]
) -> None:
    flags = (f"--total-nodes={TOTAL_NODES}", "--dataplane=clusterip")
    daemons[1] = brisk.start_daemon(1, *flags)
    brisk.settle(daemons)
    probing = brisk.start_probe(STEADY)
    times: list[tuple[str, float]] = []

    def passed(moment: str) -> None:
        """Go on when the living have agreed, and clients have asked for a while."""
        times.append((moment, time.monotonic()))
        brisk.settle(daemons)
        time.sleep(QUIET_S)

    for number in (2, 3):
        daemons[number] = brisk.start_daemon(number, *flags)
        passed(f"node {number} joins")
    for number in (2, 3):
        leaver = daemons.pop(number)
        assert leaver.stop(PATIENCE_S) == 0, leaver.output()
        passed(f"node {number} has left")
        daemons[number] = brisk.start_daemon(number, *flags)
        passed(f"node {number} joins")
    for number in (3, 2):
        daemons.pop(number).kill()
        passed(f"node {number} is killed and stays dead")
    probing.signal(signal.SIGTERM)
    report = reported(probing)
    print(report.summary())  # noqa: T201  shown by pytest -rP
    for moment, since_s in times:
        lost = [
            outage
            for outage in report.outages()
            if since_s <= outage.since_s < since_s + QUIET_S + LEASE_S
        ]
        longest = max(
            (outage.until_s - outage.since_s for outage in lost if outage.until_s is not None),
            default=0.0,
        )
        print(  # noqa: T201
            f"{moment}: {len(lost)} of {report.clients} clients without an answer, "
            f"for {longest:.2f} s at most"
        )
    assert report.twice == 0, report.summary()
    assert report.once > report.never, report.summary()
    for number in (2, 3):
        assert brisk.in_force(number), "a killed daemon leaves its numbers, without a lease"
    # On busy processors a lease may lapse here, and a request goes without an answer; none gets
    # two.
    alone = brisk.probe()
    assert alone.twice == 0, alone.summary()
    assert alone.once > alone.never, alone.summary()
    assert brisk.in_force(1) == ",".join(map(str, range(1, TOTAL_NODES + 1)))


def show(cluster: Cluster, moment: str, expected: str) -> None:
    """Print what the first server's proc file says, and see that it is what it should be."""
    held = cluster.in_force(1)
    print(f"/proc/net/ipt_CLUSTERIP/198.51.100.1 after {moment}: {held!r}")  # noqa: T201
    assert held == expected
