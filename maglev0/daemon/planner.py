"""What one node owns under each view, and its failover plans."""

from __future__ import annotations

import time
from functools import partial

from maglev0.core.assignment import Assignment, decide
from maglev0.core.failover_plans import FailoverPlans
from maglev0.core.view import DRY_RUN, Member, View
from maglev0.runtime.waiting import in_thread

# Failover plans are worked on for so long at a time: a change that comes meanwhile waits for the
# rest of a step, which takes no longer either.
SLICE_S = 0.0005


class Planner:
    """Computes this node's shares; the name and the dry run in its record `me` never change."""

    def __init__(self, me: Member, total_nodes: int) -> None:
        self._total_nodes = total_nodes
        self._dry_run = me.state == DRY_RUN
        self._plans = FailoverPlans(me.name, total_nodes, dry_run=self._dry_run)

    @property
    def ownership(self) -> Assignment | None:
        """Who owns what under the current view; `None` until `work` has built that table."""
        return self._plans.ownership

    @property
    def before(self) -> dict[int, int]:
        """The weights, by member id, from which the table before the current one was built."""
        return self._plans.before

    async def share(self, view: View) -> frozenset[int]:
        """Return the buckets that this node owns under a view, which becomes the current one."""
        share = self._plans.share(view)
        if share is None:
            # In a thread: a table of a million buckets takes seconds, and signals must not wait.
            ownership = await in_thread(
                partial(decide, view, self._total_nodes, dry_run=self._dry_run)
            )
            share = self._plans.decided(view, ownership)
        return share

    def work(self) -> bool:
        """Work on the table and the failover plans for `SLICE_S`; return whether more is left."""
        start_s = time.monotonic()
        while (is_more := self._plans.step()) and time.monotonic() - start_s < SLICE_S:
            pass
        return is_more
