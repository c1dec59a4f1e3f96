"""A real Prometheus scrapes three daemons on the lab, and its queries tell of a failover what
happened.
"""

from __future__ import annotations

import math
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from maglev0.lab.testbed import network
from maglev0.lab.testbed.addresses import VIP, managed_address
from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.testbed.network import MANAGEMENT, Socket
from maglev0.lab.testbed.node import INTERFACE
from maglev0.lab.traffic.probe import ProbePlan
from tests.support.prometheus import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.kernel, pytest.mark.zookeeper]

PORT, PROMETHEUS_PORT = 9105, 9090
ADDRESS = IPv4Address("198.19.2.1")
BUCKETS = 257
SETTINGS = LabSettings(nodes=3, total_nodes=BUCKETS, more_flags=(f"--metrics=0.0.0.0:{PORT}",))
PLAN = ProbePlan(clients=200, rate_per_s=400.0)
HELD = "sum(maglev0_buckets_owned and on (instance) up == 1)"
MEMBERS = 'max(maglev0_members{state="active"})'


@pytest.fixture
def cluster() -> Iterator[Lab]:
    with Lab(SETTINGS) as made:
        made.start()
        yield made


@pytest.fixture
def prometheus(cluster: Lab) -> Iterator[Prometheus]:
    """On the management network, in a namespace of its own that goes with the lab."""
    place = cluster.claim.namespace("prometheus")
    network.make_namespace(place)
    cluster.network.plug("prometheus", MANAGEMENT, Socket(place, INTERFACE, ADDRESS))
    directory = cluster.claim.directory / "prometheus"
    directory.mkdir()
    with Prometheus(
        directory,
        [f"{managed_address(number)}:{PORT}" for number in cluster.nodes],
        PROMETHEUS_PORT,
        place,
    ) as running:
        running.wait(
            lambda: running.value("count(maglev0_able == 1)") == 3, "a scrape of each daemon"
        )
        yield running


def test_queries_show_a_failover(cluster: Lab, prometheus: Prometheus) -> None:
    prometheus.wait(lambda: prometheus.value(HELD) == BUCKETS, "all buckets to be reported")
    began_s = time.monotonic()
    assert prometheus.value(MEMBERS) == 3
    before = prometheus.query("maglev0_buckets_owned")
    assert (
        prometheus.query("maglev0_buckets_owned == maglev0_buckets_share").keys() == before.keys()
    )
    assert (
        prometheus.value("max(maglev0_buckets_overlapping)")
        == prometheus.value("max(maglev0_buckets_unowned)")
        == 0
    )
    assert prometheus.value('count(maglev0_zookeeper_state{state="connected"} == 1)') == 3

    with cluster.probing(PLAN) as probing:
        probing.let_all_ask(2)
        cluster.nodes[3].kill_daemon()
        prometheus.wait(lambda: prometheus.value(MEMBERS) == 2, "the death to be reported")
        prometheus.wait(
            lambda: prometheus.value(HELD) == BUCKETS, "the survivors to have all buckets"
        )
        probing.let_all_ask(2)
    assert prometheus.value("sum(up)") == 2
    after = prometheus.query("maglev0_buckets_owned and on (instance) up == 1")
    assert all(after[survivor] > before[survivor] for survivor in after)
    assert abs(max(after.values()) - min(after.values())) <= 1
    prometheus.wait(
        lambda: prometheus.value("max(maglev0_buckets_unowned)") == 0,
        "the audit to find every bucket owned",
    )
    lasted_s = math.ceil(time.monotonic() - began_s)
    assert set(prometheus.course("max(maglev0_buckets_overlapping)", lasted_s)) == {0}
    course = [members for members in prometheus.course(MEMBERS, lasted_s) if members]
    assert course == sorted(course, reverse=True)
    assert set(course) == {3, 2}

    hand_overs = 'sum(maglev0_handover_seconds_count{phase="acquired"} and on (instance) up == 1)'
    prometheus.wait(lambda: (prometheus.value(hand_overs) or 0) >= 2, "hand-overs to be counted")
    told = {
        kind: prometheus.value(f'sum(maglev0_packets_total{{kind="{kind}"}})')
        for kind in ("new_flow", "established", "other", "foreign", "no_lease")
    }
    assert told["new_flow"] or told["other"]
    assert told["foreign"]
    assert probing.report.twice == 0
    assert str(VIP) in {dict(labels)["vip"] for labels in after}
