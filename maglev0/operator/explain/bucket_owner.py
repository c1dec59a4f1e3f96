"""Finds a bucket's owner, its former owner, and the progress of its hand-over. Pure.

It imports no I/O; `telemetry.observer` reads the znodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from maglev0.core import table
from maglev0.core.view import DRY_RUN, Member, name_of
from maglev0.protocol.handover import Phase
from maglev0.telemetry.node_report import NodeReport
from maglev0.telemetry.observer import Observation


class Party(NamedTuple):
    """A node that owns or owned a bucket; `state` is "left" if it is not a member now."""

    name: str
    host: str
    state: str


@dataclass(frozen=True)
class BucketOwner:
    """The owner of one bucket, and the former one (None: no node).

    `knows_before` is False if no report describes the view before. `move` is a sentence about what
    the hand-over of the bucket waits for, "" without a hand-over. `in_force` says that several
    kernels have the bucket in force, or none, by their reports; "" if one has. `report` is the
    owner's.
    """

    bucket: int
    owner: Party | None
    before: Party | None
    knows_before: bool
    move: str
    in_force: str
    report: NodeReport | None


def of(seen: Observation, bucket: int) -> BucketOwner:
    """The owner of a bucket by the znodes; buckets count from 1."""
    name = seen.owners[bucket - 1]
    owner = next((member for member in seen.view.members if member.name == name), None)
    weights = _before(seen, owner)
    former = "" if weights is None else _owner_under(seen.settings.total_nodes, weights, bucket)
    return BucketOwner(
        bucket=bucket,
        owner=_party(seen, name),
        before=_party(seen, former),
        knows_before=weights is not None,
        move=_move(seen, bucket, name) if weights is None or former != name else "",
        in_force=_in_force(seen, bucket),
        report=None if owner is None else seen.reports.get(owner.id),
    )


def _before(seen: Observation, owner: Member | None) -> Mapping[int, int] | None:
    """The weights of the view before, by the owner's report, or else by any report.

    None if no member remembers them: a member that has just joined, or was started again, does not.
    """
    if seen.view.id.cversion <= 1:
        return {}  # before its first member the cluster was empty
    remembered = {
        member: report.before
        for member, report in seen.reports.items()
        if report.view == seen.view.id and report.before
    }
    id_ = owner.id if owner is not None and owner.id in remembered else min(remembered, default=0)
    return remembered.get(id_)


def _owner_under(total_nodes: int, weights: Mapping[int, int], bucket: int) -> str:
    named = {name_of(member): weight for member, weight in weights.items()}
    return table.build(total_nodes, named)[bucket - 1] if any(named.values()) else ""


def _party(seen: Observation, name: str) -> Party | None:
    if not name:
        return None
    member = next((member for member in seen.view.members if member.name == name), None)
    return Party(name, "", "left") if member is None else Party(name, member.host, member.state)


def _move(seen: Observation, bucket: int, owner: str) -> str:
    waiting = [
        f"{member.name} ({_progress(seen, member)})"
        for member in seen.view.members
        if member.state != DRY_RUN and not _released(seen, member)
    ]
    if waiting:
        return f"waiting until every member has released its losses; not yet: {', '.join(waiting)}"
    if owner and bucket in seen.findings.holes:
        return (
            f"every member has released its losses; {owner} has yet to acquire the bucket, or waits"
            " until the lease of a departed member has expired"
        )
    return ""


def _released(seen: Observation, member: Member) -> bool:
    ack = seen.acks.get(member.id)
    return ack is not None and ack.view == seen.view.id and ack.stage >= Phase.RELEASED


def _progress(seen: Observation, member: Member) -> str:
    ack = seen.acks.get(member.id)
    return (
        "has not acknowledged this view"
        if ack is None or ack.view != seen.view.id
        else ack.stage.name.lower()
    )


def _in_force(seen: Observation, bucket: int) -> str:
    holders = seen.findings.overlaps.get(bucket)
    if holders:
        return f"on {' and '.join(map(name_of, holders))} at once"
    return "nowhere" if bucket in seen.findings.holes else ""
