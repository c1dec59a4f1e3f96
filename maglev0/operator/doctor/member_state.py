"""Judges what each member publishes: its record, its report and its orders. Pure.

It imports no I/O. The time of each reading is handed in, as seconds since the epoch by this
machine's clock. `first` and `last` are two readings, a few seconds apart; they may be the same one.
What passes within that time is no finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from maglev0.core.text import printable
from maglev0.core.view import ACTIVE, DRY_RUN, FAILING, Member, name_of
from maglev0.operator.doctor.finding import Finding, fault, judged, note, warning
from maglev0.protocol.lease import terms
from maglev0.telemetry.node_report import STALE_S, NodeReport
from maglev0.telemetry.observer import Observation

FAMILIES = "hash families"
VERSIONS = "versions"
STATES = "the members' states"
REPORTS = "the members' reports"
LEASES = "the members' leases"
CLOCKS = "the members' clocks"
SESSIONS = "the members' sessions"
ORDERS = "standing orders"
OFFSET_S = 2.0  # rounding to seconds, a slow write and our own reading may add up to this


@dataclass(frozen=True)
class ClusterReading:
    """What ZooKeeper held of a cluster, and when."""

    seen: Observation
    at_s: float

    def is_stale(self, report: NodeReport) -> bool:
        """Whether a report is too old to describe this moment."""
        return report.is_stale(self.at_s)


def judge(first: ClusterReading, last: ClusterReading) -> list[Finding]:
    """Judge each member by itself."""
    seen = last.seen
    return [
        *judged(FAMILIES, f"all members hash as {seen.settings.hash_family}", *_families(seen)),
        *judged(VERSIONS, "all members run one version", _versions(seen)),
        *judged(STATES, "all members serve", *_states(seen)),
        *judged(REPORTS, "all reports are fresh", *_reports(first, last)),
        *judged(LEASES, "all leases run", *_leases(first, last)),
        *judged(
            CLOCKS,
            f"all agree with this machine's clock within {OFFSET_S:g} s",
            *_clocks(first, last),
        ),
        *judged(SESSIONS, "all sessions are longer than the lease", *_sessions(seen)),
        *judged(ORDERS, "there are none", *_orders(seen)),
    ]


def _on(member: Member, fix: str) -> str:
    """A fix to be made on that member's machine."""
    return f"on {printable(member.host)}: {fix}"


def _families(seen: Observation) -> Iterator[Finding]:
    family = seen.settings.hash_family
    for member in seen.view.members:
        if member.dataplane is not family and member.state != DRY_RUN:
            yield fault(
                FAMILIES,
                f"{member.name} hashes as {member.dataplane}, the cluster as {family}",
                "it answers other clients than those in its buckets: some clients get two answers,"
                " some none",
                _on(member, f"start the daemon with --dataplane={family}"),
            )


def _versions(seen: Observation) -> Finding | None:
    versions = sorted({report.version for report in seen.reports.values()})
    if len(versions) < 2:
        return None
    return note(
        VERSIONS,
        f"members run versions {' and '.join(versions)}",
        "this is fine during an upgrade, node by node",
    )


def _states(seen: Observation) -> Iterator[Finding]:
    for member in seen.view.members:
        report = seen.reports.get(member.id)
        problems = "; ".join(report.problems) if report is not None else ""
        if report is not None and not report.able:
            yield fault(
                STATES,
                f"{member.name} cannot serve: {problems}",
                "no node answers in its share",
                _on(member, "maglev0 doctor"),
            )
        elif member.state == FAILING:
            yield warning(
                STATES,
                f"the health checks of {member.name} fail: {problems}",
                "other members serve its share",
                f"repair the service on {printable(member.host)}",
            )
        elif problems:
            yield warning(
                STATES,
                f"{member.name} reports a problem: {problems}",
                "it still serves",
                _on(member, "maglev0 doctor"),
            )
        elif member.state != ACTIVE or not member.weight:
            yield note(
                STATES,
                f"{member.name} is {member.state}, its weight is {member.weight}",
                "it owns no bucket",
            )


def _reports(first: ClusterReading, last: ClusterReading) -> Iterator[Finding]:
    why = "no member can check its kernel; its daemon hangs, or runs another version"
    for member in last.seen.view.members:
        fix = _on(member, "systemctl restart maglev0")
        before, now = first.seen.reports.get(member.id), last.seen.reports.get(member.id)
        if now is None and before is None and member in first.seen.view.members:
            yield warning(REPORTS, f"{member.name} has published no report", why, fix)
        elif (
            now is not None
            and last.is_stale(now)
            and before is not None
            and before.read_at == now.read_at
        ):
            what = f"{member.name} has published no report for {last.at_s - now.read_at:.0f} s"
            yield warning(REPORTS, what, why, fix)


def _leases(first: ClusterReading, last: ClusterReading) -> Iterator[Finding]:
    for member in last.seen.view.members:
        before, now = first.seen.reports.get(member.id), last.seen.reports.get(member.id)
        expired = (
            before is not None
            and now is not None
            and before.lease_left_s <= 0
            and now.lease_left_s <= 0
        )
        if expired and member.state in (ACTIVE, FAILING) and member.weight:
            yield fault(
                LEASES,
                f"the lease of {member.name} has expired",
                "its kernel refuses new connections, and no other member accepts them",
                _on(member, "journalctl -u maglev0"),
            )


def _clocks(first: ClusterReading, last: ClusterReading) -> Iterator[Finding]:
    why = (
        "logs of the two machines do not match, and setting a clock right in one step ends a lease"
        " for a moment"
    )
    for member in last.seen.view.members:
        before, now = first.seen.reports.get(member.id), last.seen.reports.get(member.id)
        ahead_s = max(
            member.start_time - last.at_s, (now.read_at - last.at_s) if now is not None else 0.0
        )
        is_fresh = before is not None and now is not None and before.read_at != now.read_at
        behind_s = last.at_s - now.read_at if now is not None and is_fresh else 0.0
        offset = (
            f"{ahead_s:.0f} s ahead of"
            if ahead_s > OFFSET_S
            else f"{behind_s:.0f} s behind"
            if behind_s > STALE_S
            else ""
        )
        if offset:
            yield warning(
                CLOCKS,
                f"the clock of {member.name} is about {offset} this machine's clock",
                why,
                f"apt install chrony, on {printable(member.host)} or here",
            )


def _sessions(seen: Observation) -> Iterator[Finding]:
    lease = terms(seen.settings.lease_ms)
    for member in seen.view.members:
        if lease.over_s + lease.interval_s > member.session_timeout_s and member.state != DRY_RUN:
            yield warning(
                SESSIONS,
                f"the session timeout of {member.name} is {member.session_timeout_s:g} s, too short"
                f" for the cluster's lease of {lease.length_s:g} s",
                "when it crashes, the others wait for its lease, not only for its session",
                f"give all nodes the same --session-timeout, {1.5 * lease.length_s:.2g} or more",
            )


def _orders(seen: Observation) -> Iterator[Finding]:
    members = {member.id for member in seen.view.members}
    for member, order in sorted(seen.orders.items()):
        name = name_of(member) if member in members else f"{name_of(member)} (absent)"
        if order.drained:
            yield note(
                ORDERS,
                f"{name} is drained by an operator's order",
                "it owns no bucket until the order is withdrawn",
                f"maglev0 undrain {member}",
            )
        if order.weight is not None:
            yield note(
                ORDERS,
                f"{name} has weight {order.weight} by an operator's order",
                "the order replaces its --weight",
                f"to withdraw it: maglev0 weight {member} own",
            )
