"""The states of one node as it reports them: in the log, notifications, metrics and commands.

Pure: imports no I/O.
"""

from __future__ import annotations

import enum

from maglev0.core import view
from maglev0.protocol.handover import Phase
from maglev0.protocol.progress import Progress


class ReportedState(enum.StrEnum):
    """One word for what a node is to its cluster; four of them are also states of its record."""

    JOINING = "joining"  # not a member yet
    ACTIVE = view.ACTIVE  # a member that owns buckets
    IDLE = "idle"  # an active member that owns no bucket
    DRAINING = view.DRAINING  # gives up its share, by an order or for a stop
    FAILING = view.FAILING  # a health check is down
    DRY_RUN = view.DRY_RUN  # asks nothing of its kernel
    LEASE_EXPIRED = "lease-expired"  # its kernel refuses new connections
    HOST_FAULT = "host-fault"  # its kernel or link cannot serve, and it has left the cluster
    LEFT = "left"  # it no longer serves the VIP


def next_state(former: ReportedState, progress: Progress, *, able: bool) -> ReportedState:
    """Return the state of a node that has come so far; `able` is whether its host can serve.

    LEFT is not among the results: a node is in it when it no longer runs.
    """
    if not able:
        return ReportedState.HOST_FAULT
    if not progress.is_member:
        return ReportedState.JOINING
    if progress.me.state != view.ACTIVE:
        return ReportedState(progress.me.state)
    if progress.held:
        is_over = progress.lease_left_s <= 0
        return ReportedState.LEASE_EXPIRED if is_over else ReportedState.ACTIVE
    # A node that holds nothing in the middle of a hand-over may be about to get its share.
    return ReportedState.IDLE if progress.stage is Phase.ACQUIRED else former
