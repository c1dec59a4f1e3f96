"""Judges one reading of a cluster for `maglev0 status`. Pure.

It imports no I/O; the time is handed in, as seconds since the epoch. Texts from ZooKeeper that the
result holds are printable and bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import islice
from typing import Any

from maglev0.core.settings import Settings
from maglev0.core.text import printable
from maglev0.core.view import ACTIVE, DRY_RUN, FAILING, Ignored, Member, name_of
from maglev0.protocol.handover import Phase
from maglev0.protocol.lease import terms
from maglev0.protocol.orders import Order
from maglev0.protocol.states import ReportedState
from maglev0.telemetry.audit import Findings
from maglev0.telemetry.node_report import STALE_S, NodeReport
from maglev0.telemetry.observer import Observation

REPORT_INTERVAL_S = 5.0  # a daemon reports at least so often what its kernel has in force
CLOCK_TOLERANCE_S = 2.0
EXAMPLES = 8
IDLE = ReportedState.IDLE
SOUND = "sound"
MOVING = "moving"
ALARM = "alarm"
_MAX_NAME = 64


@dataclass(frozen=True)
class MemberRow:
    """One member. `buckets` is how many it owns by the table, `report` is `report_age_s` old."""

    member: Member
    state: str
    order: Order | None
    buckets: int
    share: float
    uptime_s: float
    report: NodeReport | None
    report_age_s: float
    is_current: bool  # its kernel is under the current view, as far as is known

    @property
    def is_stale(self) -> bool:
        """Whether its last report is older than the pace that the report announced allows."""
        return self.report is not None and self.report_age_s > self.report.stale_s

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing unusual about it."""
        silent = (
            self.report is None
            or self.is_stale
            or bool(self.report.problems)
            or not self.report.able
        )
        return self.state in (ACTIVE, IDLE) and self.order is None and not silent


@dataclass(frozen=True)
class Status:
    """A cluster at one moment.

    `view_age_s` is None while no member is known to be under the view. `waits_for` are the members
    for which the hand-over waits. `owners` is the table, by name ("": no owner). `alarms` and
    `notes` are sentences. `standing` are the orders for absent members.
    """

    vip: IPv4Address
    settings: Settings
    view_number: int
    view_age_s: float | None
    waits_for: tuple[int, ...]
    verdict: str
    alarms: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[MemberRow, ...]
    owners: tuple[str, ...]
    findings: Findings
    ignored: tuple[Ignored, ...]
    standing: dict[int, Order]


def summarize(vip: IPv4Address, seen: Observation, now_s: float) -> Status:
    """Judge what was read at `now_s`."""
    rows = tuple(_rows(seen, now_s))
    view_age_s = _view_age_s(seen, now_s)
    may_move = _may_move(rows, view_age_s, seen.settings)
    absent = seen.orders.keys() - {row.member.id for row in rows}
    serves = any(seen.owners)
    faults = (
        ()
        if serves and (may_move or seen.findings.is_sound)
        else tuple(_alarms(rows, seen.findings, serves=serves))
    )
    return Status(
        vip=vip,
        settings=seen.settings,
        view_number=seen.view_number,
        view_age_s=view_age_s,
        waits_for=tuple(
            row.member.id for row in rows if not row.is_current and row.state != DRY_RUN
        ),
        verdict=ALARM if faults else SOUND if seen.findings.is_sound else MOVING,
        alarms=faults,
        notes=tuple(_notes(rows, seen.findings)),
        rows=rows,
        owners=seen.owners,
        findings=seen.findings,
        ignored=tuple(
            child._replace(name=printable(child.name[:_MAX_NAME])) for child in seen.ignored
        ),
        standing={member: seen.orders[member] for member in sorted(absent)},
    )


def _rows(seen: Observation, now_s: float) -> Iterator[MemberRow]:
    shares = seen.shares
    for member in seen.view.members:
        report, ack = seen.reports.get(member.id), seen.acks.get(member.id)
        has_released = ack is not None and ack.view == seen.view.id and ack.stage >= Phase.RELEASED
        buckets = len(shares[member.id])
        yield MemberRow(
            member=member,
            state=IDLE if member.state == ACTIVE and not buckets else member.state,
            order=seen.orders.get(member.id),
            buckets=buckets,
            share=buckets / seen.settings.total_nodes,
            uptime_s=max(0.0, now_s - member.start_time),
            report=report,
            report_age_s=now_s - report.read_at if report is not None else 0.0,
            is_current=has_released and (report is None or report.view == seen.view.id),
        )


def _view_age_s(seen: Observation, now_s: float) -> float | None:
    """The median age of the view in the reports of those under it.

    So one wrong clock neither hides a fault nor turns a hand-over into one.
    """
    ages = sorted(
        max(0.0, now_s - report.view_at)
        for report in seen.reports.values()
        if report.view == seen.view.id
    )
    return ages[len(ages) // 2] if ages else None


def _may_move(rows: tuple[MemberRow, ...], view_age_s: float | None, settings: Settings) -> bool:
    """Whether a fault may belong to a hand-over.

    A hand-over ends within a lease after the change of the view; then all members have to report.
    """
    if view_age_s is not None:
        return view_age_s <= terms(settings.lease_ms).over_s + REPORT_INTERVAL_S
    return any(not row.is_stale for row in rows)


def _alarms(rows: tuple[MemberRow, ...], findings: Findings, *, serves: bool) -> Iterator[str]:
    if not rows:
        yield "no members: no node answers clients"
    elif not serves:
        yield "no member serves: each is drained, in a dry run, or has weight 0"
    else:
        if findings.overlaps:
            yield (
                f"overlap: {count_text(len(findings.overlaps))} with more than one owner, such as"
                f" {overlapping(findings.overlaps)}"
            )
        if findings.holes:
            examples = _some(map(str, sorted(findings.holes)), len(findings.holes))
            yield f"hole: {count_text(len(findings.holes))} without an owner, such as {examples}"


def _notes(rows: tuple[MemberRow, ...], findings: Findings) -> Iterator[str]:
    weighty = [row for row in rows if row.member.weight and row.state in (ACTIVE, IDLE, FAILING)]
    if weighty and all(row.state == FAILING for row in weighty):
        yield (
            "the health checks of every member fail, so all members keep their shares: a bad answer"
            " is better than none"
        )
    if findings.unknown:
        yield (
            "unknown, and assumed to be as in the table: what is in force on"
            f" {member_names(findings.unknown)}"
        )
    if stale := [row.member.id for row in rows if row.is_stale]:
        yield (
            f"no report for more than {STALE_S:g} s from {member_names(stale)}: the daemon hangs,"
            " or its clock differs from this machine's"
        )
    if ahead := [row.member.id for row in rows if row.report_age_s < -CLOCK_TOLERANCE_S]:
        yield (
            f"reports from the future: this machine's clock is behind that of {member_names(ahead)}"
        )


def count_text(buckets: int) -> str:
    """A number of buckets, in words."""
    return "1 bucket" if buckets == 1 else f"{buckets} buckets"


def member_names(members: Collection[int]) -> str:
    """Some of these members, and how many more there are."""
    return _some(map(name_of, members), len(members))


def overlapping(overlaps: Mapping[int, tuple[int, ...]]) -> str:
    """Some of the buckets that several members have in force, each with these members."""
    return _some(
        (
            f"{bucket} on {' and '.join(map(name_of, members[:EXAMPLES]))}"
            for bucket, members in overlaps.items()
        ),
        len(overlaps),
    )


def _some(things: Iterable[str], count: int) -> str:
    shown = list(islice(things, EXAMPLES))
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


def status_as_json(of: Status) -> dict[str, Any]:
    """The object that `--json` writes for a cluster; times are in seconds, None is unknown."""
    findings, settings = of.findings, of.settings
    return {
        "vip": str(of.vip),
        "verdict": of.verdict,
        "alarms": of.alarms,
        "notes": of.notes,
        "view": {
            "number": of.view_number,
            "age_s": _rounded(of.view_age_s),
            "waits_for": of.waits_for,
        },
        "settings": {
            "total_nodes": settings.total_nodes,
            "hash_mode": settings.hash_mode,
            "hash_family": settings.hash_family,
            "cluster_mac": settings.cluster_mac,
            "lease_s": settings.lease_ms / 1000,
        },
        "members": [_row_as_json(row) for row in of.rows],
        "overlaps": {
            "count": len(findings.overlaps),
            "examples": {
                str(bucket): who for bucket, who in islice(findings.overlaps.items(), EXAMPLES)
            },
        },
        "holes": {"count": len(findings.holes), "examples": sorted(findings.holes)[:EXAMPLES]},
        "unknown": findings.unknown,
        "ignored": [{"name": child.name, "reason": child.reason} for child in of.ignored],
        "standing_orders": {str(member): order._asdict() for member, order in of.standing.items()},
    }


def _row_as_json(row: MemberRow) -> dict[str, Any]:
    member, report = row.member, row.report
    return {
        "id": member.id,
        "name": member.name,
        "host": member.host,
        "address": member.address,
        "state": row.state,
        "weight": member.weight,
        "order": None if row.order is None else row.order._asdict(),
        "buckets": row.buckets,
        "share": round(row.share, 6),
        "uptime_s": _rounded(row.uptime_s),
        "dataplane": member.dataplane,
        "is_current": row.is_current,
        "report": None if report is None else _report_as_json(report, row.report_age_s),
    }


def _report_as_json(report: NodeReport, age_s: float) -> dict[str, Any]:
    return {
        "age_s": _rounded(age_s),
        "held": report.held,
        "lease_left_s": _rounded(report.lease_left_s),
        "kept": report.kept,
        "connections": report.flows,
        "can_serve": report.able,
        "problems": report.problems,
        "xdp": report.xdp,
        "version": report.version,
    }


def essence(of: Status) -> Any:
    """The part of a status that changes only if something happens; not clocks or connections."""
    return (
        of.view_number,
        of.waits_for,
        of.verdict,
        of.alarms,
        of.notes,
        of.settings,
        of.ignored,
        of.standing,
        [_essence(row) for row in of.rows],
    )


def _essence(row: MemberRow) -> Any:
    report = row.report
    reported = (
        None
        if report is None
        else (report.held, report.able, report.problems, report.xdp, report.version)
    )
    return row.member, row.order, row.buckets, row.is_current, reported


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
