"""Who owns a bucket, who did before, and how far it has come in between, as the cluster's znodes tell.

Pure: imports no I/O.
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
    """Somebody who owns or owned a bucket; `state` is "gone" of who is no member any more."""

    name: str
    host: str
    state: str


@dataclass(frozen=True)
class BucketOwner:
    """One bucket's owner, and the former one (`None`: nobody).

    `knows_before` is False where no member's report tells of the view before. `move` tells in words what the bucket waits for, "" at rest.
    `in_force` tells that several kernels have it in force, or none, by their reports; "" where one has. `report` is the owner's own.
    """

    bucket: int
    owner: Party | None
    before: Party | None
    knows_before: bool
    move: str
    in_force: str
    report: NodeReport | None


def of(seen: Observation, bucket: int) -> BucketOwner:
    """What the znodes tell of a bucket, from 1."""
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
    """The weights of the view before, by the owner's report if that tells them, else by any; `None` where nobody remembers them.

    Who has only just joined, or was started again, has none to tell.
    """
    if seen.view.id.cversion <= 1:
        return {}  # nobody ever was there but the one who joined first
    told = {
        member: report.before
        for member, report in seen.reports.items()
        if report.view == seen.view.id and report.before
    }
    return told.get(owner.id if owner is not None and owner.id in told else min(told, default=0))


def _owner_under(total_nodes: int, weights: Mapping[int, int], bucket: int) -> str:
    named = {name_of(member): weight for member, weight in weights.items()}
    return table.build(total_nodes, named)[bucket - 1] if any(named.values()) else ""


def _party(seen: Observation, name: str) -> Party | None:
    if not name:
        return None
    member = next((member for member in seen.view.members if member.name == name), None)
    return Party(name, "", "gone") if member is None else Party(name, member.host, member.state)


def _move(seen: Observation, bucket: int, owner: str) -> str:
    late = [
        f"{member.name} ({_progress(seen, member)})"
        for member in seen.view.members
        if member.state != DRY_RUN and not _released(seen, member)
    ]
    if late:
        return f"waits until all have let go of what they give up: not yet {', '.join(late)}"
    if owner and bucket in seen.findings.holes:
        return f"all members have let go; {owner} has yet to take it, or waits until the lease of a member that is gone must be over"
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
