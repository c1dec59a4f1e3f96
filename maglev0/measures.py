"""What a daemon tells Prometheus: the names, meanings and values of its metrics, by VIP.

Pure: imports no I/O. What is measured when, and how it is fetched, is `metrics`' part.

Names follow Prometheus' conventions: base units, `_total` for what only grows (and begins at 0 with the daemon, or with the rules that count), one
meaning for each name. Labels are bounded: VIPs, states and kinds that this module lists, and the checks of the configuration, 16 at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import NamedTuple

from maglev0.dataplane import Counters
from maglev0.view import ACTIVE, DRAINING, DRY_RUN, FAILING

MEMBER_STATES = (ACTIVE, DRAINING, FAILING, DRY_RUN)
SESSION_STATES = ("connecting", "connected", "suspended", "lost")
STEPS = ("prepared", "released", "acquired")  # of a hand-over; with the last one it is over for this node
ERRORS = ("kernel", "zookeeper", "check", "notify", "config", "other")

# The stage that decided, what it decided, and about what kind of packets.
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
    """How one health check stands, and how long its last run took."""

    text: str
    up: bool
    duration_s: float


@dataclass(frozen=True)
class Measures:
    """What one VIP's part knew of itself at `at_s` of CLOCK_MONOTONIC.

    `members` counts the members of the view by state. `owned` buckets are in force in the kernel, `share` is what the table gives this node;
    `overlaps`, `holes` and `silent` (members who do not say what they hold) are `None` where another member audits. `conntrack` is how many
    connections this host's table holds, and how many it can. What is `None` is not known here.
    """

    at_s: float
    member_id: int
    version: str
    dataplane: str
    xdp: str
    members: Mapping[str, int]
    owned: int
    share: int
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
    late: int
    conntrack: tuple[int, int] | None
    restored: int


class Family(NamedTuple):
    """One metric: its kind (gauge, counter or info), what it means, and a value for each set of labels."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...]
    samples: tuple[tuple[tuple[str, ...], float], ...]


Samples = Iterable[tuple[tuple[str, ...], float | None]]


def families(found: Mapping[IPv4Address, Measures], now_s: float) -> Iterator[Family]:
    """All metrics of all VIPs; those that nothing is known of have no values."""
    by_vip = {str(vip): measures for vip, measures in found.items()}
    for name, kind, meaning, labels, read in _METRICS:
        samples = [((vip, *more), value) for vip, measures in by_vip.items() for more, value in read(measures, now_s) if value is not None]
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
    return [((), None if measures.view_number is None else measures.view_age_s + now_s - measures.at_s)]


def _age(measures: Measures, now_s: float) -> Samples:
    return [((), now_s - measures.at_s)]


def _checks_up(measures: Measures, _now_s: float) -> Samples:
    return [((check.text,), check.up) for check in _distinct(measures)]


def _check_durations(measures: Measures, _now_s: float) -> Samples:
    return [((check.text,), check.duration_s) for check in _distinct(measures)]


def _distinct(measures: Measures) -> Iterable[CheckResult]:
    """One result for each text: a check that was given twice is one metric, and down if either is."""
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
    return [(labels, getattr(getattr(counters, name), field, None)) for name, labels in _PACKETS.items()]


def _conntrack(index: int) -> _Read:
    return lambda measures, _now_s: [((), None if measures.conntrack is None else measures.conntrack[index])]


class _Read:
    """Reads a metric's values from what was measured, with the labels beyond the VIP."""

    def __call__(self, measures: Measures, now_s: float, /) -> Samples:
        raise NotImplementedError
