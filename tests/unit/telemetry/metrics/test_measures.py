from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from maglev0.protocol.ports.readings import Count, Counters
from maglev0.telemetry.metrics import measures
from maglev0.telemetry.metrics.measures import CheckResult, Measures

VIP, OTHER = IPv4Address("198.51.100.1"), IPv4Address("198.51.100.2")
NODE = Measures(
    at_s=100.0,
    member_id=2,
    version="1.2.3",
    dataplane="nftables",
    xdp="native",
    members={"active": 2, "failing": 1},
    owned=21845,
    share=21846,
    total=65537,
    overlaps=0,
    holes=1,
    silent=0,
    view_number=17,
    view_age_s=60.0,
    lease_left_s=1.5,
    lease_s=2.0,
    zookeeper="connected",
    session_timeout_s=3.0,
    able=True,
    healthy=False,
    checks=(
        CheckResult("tcp:80", up=True, duration_s=0.002),
        CheckResult("file:/run/up", up=False, duration_s=0.0001),
    ),
    counters=Counters(new_flows=Count(3, 180), early_refused=Count(1000, 60000)),
    flows=12,
    kept=4,
    conntrack=(70, 262144),
    restored=1,
)

Values = Mapping[tuple[str, ...], float]


def values(found: Mapping[IPv4Address, Measures], name: str, now_s: float = 100.0) -> Values:
    """The values of one metric, by its labels."""
    (family,) = [family for family in measures.families(found, now_s) if family.name == name]
    return dict(family.samples)


def test_names_and_labels_keep_the_conventions() -> None:
    found = list(measures.families({VIP: NODE}, 100.0))
    names = [family.name for family in found]
    assert len(names) == len(set(names))
    for family in found:
        assert re.fullmatch(r"maglev0_[a-z_]+", family.name)
        assert not re.search(
            r"_(ms|total|info|minutes)$", family.name
        )  # the library adds _total and _info
        assert family.meaning.endswith(".")
        assert family.labels[0] == "vip"
        assert family.kind in ("gauge", "counter", "info")
        assert all(
            len(labels) == len(family.labels) and labels[0] == str(VIP)
            for labels, _value in family.samples
        )


def test_each_vip_has_values_of_its_own() -> None:
    found = {VIP: NODE, OTHER: replace(NODE, owned=7)}
    assert values(found, "maglev0_buckets_owned") == {
        ("198.51.100.1",): 21845,
        ("198.51.100.2",): 7,
    }
    assert all(not family.samples for family in measures.families({}, 100.0))


def test_every_state_has_a_value_also_without_members_in_it() -> None:
    assert values({VIP: NODE}, "maglev0_members") == {
        (str(VIP), "active"): 2,
        (str(VIP), "draining"): 0,
        (str(VIP), "failing"): 1,
        (str(VIP), "dry-run"): 0,
    }
    assert values({VIP: NODE}, "maglev0_zookeeper_state") == {
        (str(VIP), state): state == "connected" for state in measures.SESSION_STATES
    }


def test_what_is_not_known_has_no_value() -> None:
    nothing = replace(
        NODE,
        overlaps=None,
        holes=None,
        silent=None,
        view_number=None,
        counters=None,
        flows=None,
        conntrack=None,
        checks=(),
    )
    for name in (
        "maglev0_buckets_overlapping",
        "maglev0_buckets_unowned",
        "maglev0_members_silent",
        "maglev0_view_number",
        "maglev0_view_age_seconds",
        "maglev0_packets",
        "maglev0_bytes",
        "maglev0_connections",
        "maglev0_conntrack_entries",
        "maglev0_conntrack_entries_limit",
        "maglev0_check_up",
        "maglev0_check_duration_seconds",
    ):
        assert values({VIP: NODE}, name)
        assert not values({VIP: nothing}, name)


def test_ages_grow_between_two_snapshots_and_other_values_do_not() -> None:
    assert values({VIP: NODE}, "maglev0_view_age_seconds", 107.0) == {(str(VIP),): 67.0}
    assert values({VIP: NODE}, "maglev0_snapshot_age_seconds", 107.0) == {(str(VIP),): 7.0}
    assert values({VIP: NODE}, "maglev0_lease_left_seconds", 107.0) == {(str(VIP),): 1.5}


def test_packets_are_counted_by_the_stage_that_decides() -> None:
    assert values({VIP: NODE}, "maglev0_packets") == {
        (str(VIP), "second", "accepted", "new_flow"): 3,
        (str(VIP), "early", "refused", "foreign"): 1000,
    }
    assert values({VIP: NODE}, "maglev0_bytes")[str(VIP), "early", "refused", "foreign"] == 60000


def test_every_counter_of_a_dataplane_has_labels_of_its_own() -> None:
    every = Counters(
        *(Count(number, 60 * number) for number in range(1, len(Counters._fields) + 1))
    )
    found = values({VIP: replace(NODE, counters=every)}, "maglev0_packets")
    assert sorted(found.values()) == list(range(1, len(Counters._fields) + 1))


def test_each_check_is_one_metric_and_down_if_any_of_that_text_is() -> None:
    twice = replace(
        NODE,
        checks=(
            *NODE.checks,
            CheckResult("tcp:80", up=False, duration_s=1.0),
            CheckResult("tcp:80", up=True, duration_s=2.0),
        ),
    )
    assert values({VIP: twice}, "maglev0_check_up") == {
        (str(VIP), "tcp:80"): False,
        (str(VIP), "file:/run/up"): False,
    }
    assert values({VIP: twice}, "maglev0_check_duration_seconds")[str(VIP), "tcp:80"] == 1.0


@given(st.integers(0, 32), st.lists(st.text(max_size=8), max_size=16))
def test_the_number_of_time_series_is_bounded(vips: int, texts: list[str]) -> None:
    checks = tuple(CheckResult(text, up=True, duration_s=0.0) for text in texts)
    found = {VIP + number: replace(NODE, checks=checks) for number in range(vips)}
    assert sum(len(family.samples) for family in measures.families(found, 100.0)) <= vips * (
        60 + 2 * len(texts)
    )
