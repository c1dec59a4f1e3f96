"""The names, meanings and values of the metrics of one daemon, by VIP.

Pure: imports no I/O. The exporter decides when they are measured, and serves them.

Names follow the conventions of Prometheus: base units, `_total` for what only grows, one meaning
for each name. Such totals begin at 0 with the daemon, or with the rules that count. Labels are
bounded: VIPs, states and kinds that this module lists, and at most 16 checks of the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from maglev0.core.view import ACTIVE, DRAINING, DRY_RUN, FAILING
from maglev0.protocol.ports.readings import Counters

MEMBER_STATES = (ACTIVE, DRAINING, FAILING, DRY_RUN)
SESSION_STATES = ("connecting", "connected", "suspended", "lost")
PHASES = ("prepared", "released", "acquired")  # of a hand-over; the last one ends it here
ERRORS = ("kernel", "zookeeper", "check", "notify", "config", "other")

# By counter: the stage that decides, what it decides, and the kind of packets.
_FATE = ("stage", "verdict", "kind")
_PACKETS = {
    "xdp_passed": ("xdp", "passed", "admitted"),
    "xdp_refused": ("xdp", "refused", "foreign"),
    "early_refused": ("early", "refused", "foreign"),
    "new_flows": ("second", "accepted", "new_flow"),
    "established": ("second", "accepted", "established"),
    "other": ("second", "accepted", "other"),
    "no_lease": ("second", "refused", "no_lease"),
    "not_owned": ("second", "refused", "not_owned"),
    "not_established": ("second", "refused", "not_established"),
    "judged": ("target", "passed", "leased"),
}


class CheckResult(NamedTuple):
    """The state of one health check, and how long its last run took."""

    text: str
    up: bool
    duration_s: float


@dataclass(frozen=True)
class Measures:
    """What is known of one VIP on this node at `at_s` of CLOCK_MONOTONIC; `None` is not known.

    `members` counts the members of the view by state. `owned` buckets are in force in the kernel,
    `share` is what the table gives this node. `overlaps`, `holes` and `silent` (members that do not
    report what they hold) are `None` where another member audits. `conntrack` is the number of
    entries in the connection tracking table of this host, and its limit.
    """

    at_s: float
    member_id: int
    version: str
    dataplane: str
    xdp: str
    members: Mapping[str, int]
    owned: int
    share: int | None
    total: int
    overlaps: int | None
    holes: int | None
    silent: int | None
    view_number: int | None
    view_age_s: float
    lease_left_s: float
    lease_s: float
    zookeeper: str
    session_timeout_s: float
    able: bool
    healthy: bool
    checks: tuple[CheckResult, ...]
    counters: Counters | None
    flows: int | None
    kept: int
    conntrack: tuple[int, int] | None
    restored: int


class Family(NamedTuple):
    """One metric: kind (gauge, counter or info), meaning, a value for each set of labels."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...]
    samples: tuple[tuple[tuple[str, ...], float], ...]


Samples = Iterable[tuple[tuple[str, ...], float | None]]
# Gives the values of a metric at a time, with the labels besides the VIP.
_Read = Callable[["Measures", float], Samples]


def families(found: Mapping[IPv4Address, Measures], now_s: float) -> Iterator[Family]:
    """All metrics of all VIPs; a metric of which nothing is known has no values."""
    by_vip = {str(vip): measures for vip, measures in found.items()}
    for name, kind, meaning, labels, read in _METRICS:
        samples = [
            ((vip, *more), value)
            for vip, measures in by_vip.items()
            for more, value in read(measures, now_s)
            if value is not None
        ]
        yield Family(name, kind, meaning, ("vip", *labels), tuple(samples))


def _plain(field: str) -> _Read:
    return lambda measures, _now_s: [((), getattr(measures, field))]


def _info(measures: Measures, _now_s: float) -> Samples:
    return [((str(measures.member_id), measures.version, measures.dataplane, measures.xdp), 1)]


def _members(measures: Measures, _now_s: float) -> Samples:
    return [((state,), measures.members.get(state, 0)) for state in MEMBER_STATES]


def _session(measures: Measures, _now_s: float) -> Samples:
    return [((state,), state == measures.zookeeper) for state in SESSION_STATES]


def _view_age(measures: Measures, now_s: float) -> Samples:
    return [
        ((), None if measures.view_number is None else measures.view_age_s + now_s - measures.at_s)
    ]


def _age(measures: Measures, now_s: float) -> Samples:
    return [((), now_s - measures.at_s)]


def _checks_up(measures: Measures, _now_s: float) -> Samples:
    return [((check.text,), check.up) for check in _distinct(measures)]


def _check_durations(measures: Measures, _now_s: float) -> Samples:
    return [((check.text,), check.duration_s) for check in _distinct(measures)]


def _distinct(measures: Measures) -> Iterable[CheckResult]:
    """One result for each text: a check that is given twice is down if one of both is."""
    found: dict[str, CheckResult] = {}
    for check in measures.checks:
        if check.text not in found or not check.up:
            found[check.text] = check
    return found.values()


def _packets(measures: Measures, _now_s: float) -> Samples:
    return _counted(measures.counters, "packets")


def _bytes(measures: Measures, _now_s: float) -> Samples:
    return _counted(measures.counters, "bytes")


def _counted(counters: Counters | None, field: str) -> Samples:
    if counters is None:
        return []
    return [
        (labels, getattr(getattr(counters, name), field, None)) for name, labels in _PACKETS.items()
    ]


def _conntrack(index: int) -> _Read:
    return lambda measures, _now_s: [
        ((), None if measures.conntrack is None else measures.conntrack[index])
    ]


# Name, kind, meaning, labels besides the VIP, and what reads it.
_METRICS: tuple[tuple[str, str, str, tuple[str, ...], _Read], ...] = (
    (
        "maglev0_node",
        "info",
        "This node and what it runs.",
        ("id", "version", "dataplane", "xdp"),
        _info,
    ),
    (
        "maglev0_members",
        "gauge",
        "Members in the last view of this node, by state.",
        ("state",),
        _members,
    ),
    (
        "maglev0_buckets",
        "gauge",
        "Buckets of the cluster (--total-nodes).",
        (),
        _plain("total"),
    ),
    (
        "maglev0_buckets_owned",
        "gauge",
        "Buckets in force in this node's kernel.",
        (),
        _plain("owned"),
    ),
    (
        "maglev0_buckets_share",
        "gauge",
        "Buckets that the table of its view gives this node.",
        (),
        _plain("share"),
    ),
    (
        "maglev0_buckets_kept",
        "gauge",
        "Buckets that moved to other nodes, in which this node keeps connections.",
        (),
        _plain("kept"),
    ),
    (
        "maglev0_buckets_overlapping",
        "gauge",
        "Buckets in force on several nodes, as the auditing member sees it.",
        (),
        _plain("overlaps"),
    ),
    (
        "maglev0_buckets_unowned",
        "gauge",
        "Buckets in force on no node, as the auditing member sees it.",
        (),
        _plain("holes"),
    ),
    (
        "maglev0_members_silent",
        "gauge",
        "Members that do not report what they hold, as the auditing member sees it.",
        (),
        _plain("silent"),
    ),
    (
        "maglev0_view_number",
        "gauge",
        "Number of the view: it grows with each change of the members.",
        (),
        _plain("view_number"),
    ),
    ("maglev0_view_age_seconds", "gauge", "How long this view is in force.", (), _view_age),
    (
        "maglev0_lease_left_seconds",
        "gauge",
        "How long the lease lasted without a renewal, at the time of the snapshot.",
        (),
        _plain("lease_left_s"),
    ),
    ("maglev0_lease_seconds", "gauge", "The length of the cluster's lease.", (), _plain("lease_s")),
    (
        "maglev0_zookeeper_state",
        "gauge",
        "State of the ZooKeeper session: 1 for the present state, 0 for the others.",
        ("state",),
        _session,
    ),
    (
        "maglev0_zookeeper_session_timeout_seconds",
        "gauge",
        "The session timeout that ZooKeeper granted.",
        (),
        _plain("session_timeout_s"),
    ),
    (
        "maglev0_able",
        "gauge",
        "1 if this node can serve: its link, rules and address are in order.",
        (),
        _plain("able"),
    ),
    (
        "maglev0_healthy",
        "gauge",
        "1 if all health checks of this node are up, or it has none.",
        (),
        _plain("healthy"),
    ),
    (
        "maglev0_check_up",
        "gauge",
        "1 if a health check is up, after its results in a row.",
        ("check",),
        _checks_up,
    ),
    (
        "maglev0_check_duration_seconds",
        "gauge",
        "How long the last run of a health check took.",
        ("check",),
        _check_durations,
    ),
    (
        "maglev0_packets",
        "counter",
        "Packets for the VIP, by the stage that decides and what it decides.",
        _FATE,
        _packets,
    ),
    (
        "maglev0_bytes",
        "counter",
        "Bytes of packets for the VIP, by the stage that decides and what it decides.",
        _FATE,
        _bytes,
    ),
    (
        "maglev0_connections",
        "gauge",
        "Live TCP connections to the VIP on this host.",
        (),
        _plain("flows"),
    ),
    (
        "maglev0_conntrack_entries",
        "gauge",
        "Entries in the connection tracking table of this host, for all its services.",
        (),
        _conntrack(0),
    ),
    (
        "maglev0_conntrack_entries_limit",
        "gauge",
        "Entries above which this host drops new connections.",
        (),
        _conntrack(1),
    ),
    (
        "maglev0_restored",
        "counter",
        "Things in the kernel that others removed and the daemon restored.",
        (),
        _plain("restored"),
    ),
    (
        "maglev0_snapshot_age_seconds",
        "gauge",
        "Age of the other metrics of this VIP: the daemon measures every second or a few.",
        (),
        _age,
    ),
)
