"""One node's state as it is reported, and how long its hand-overs took."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from maglev0.core.view import View, ViewId
from maglev0.protocol.handover import Phase
from maglev0.protocol.progress import Progress
from maglev0.protocol.states import ReportedState, next_state
from maglev0.telemetry.notify import StateChange
from maglev0.telemetry.ports import ReportedKernel, ReportedNode, VipSink

log = logging.getLogger(__name__)

# The states that an error leads to, and its kind, one of `measures.ERRORS`.
_ERROR_KINDS = {
    ReportedState.HOST_FAULT: "kernel",
    ReportedState.FAILING: "check",
    ReportedState.LEASE_EXPIRED: "zookeeper",
}


class NodeStatus:
    """Follows one node's `state`, and passes changes to the telemetry sink.

    `reason` returns why the node is in a bad state; `on_news` is called when there is something to
    report to the cluster.
    """

    def __init__(
        self,
        node: ReportedNode,
        kernel: ReportedKernel,
        sink: VipSink,
        reason: Callable[[], str],
        on_news: Callable[[], None],
    ) -> None:
        self.state = ReportedState.JOINING
        self._node = node
        self._kernel = kernel
        self._vip, self._sink = sink
        self._reason = reason
        self._on_news = on_news
        self._phase: tuple[ViewId | None, Phase] = (None, Phase.SEEN)
        self._all_failed = False

    def look(self) -> None:
        """See whether the state changed, and how far a hand-over has come."""
        progress = self._node.progress
        self._time_handover(progress)
        self._become(next_state(self.state, progress, able=self._kernel.able), progress)

    def end(self) -> None:
        """Pass on that the node no longer serves the VIP."""
        self._become(ReportedState.LEFT, self._node.progress)

    def _become(self, state: ReportedState, progress: Progress) -> None:
        if state is self.state:
            return
        former, self.state = self.state, state
        if state in _ERROR_KINDS:
            self._sink.failed(_ERROR_KINDS[state])
        self._sink.changed(
            StateChange(self._vip, progress.me.id, state, former, self._reason(), time.time())
        )
        self._on_news()

    def _time_handover(self, progress: Progress) -> None:
        seen = None if progress.view is None else progress.view.id
        (former, reached), self._phase = self._phase, (seen, progress.stage)
        if seen != former:
            self._log_failing(progress.view)
            reached = Phase.SEEN
        elif progress.stage is reached:
            return
        if seen is None:
            return
        for phase in Phase:
            if reached < phase <= progress.stage:
                self._sink.took(self._vip, phase, time.monotonic() - progress.view_at)
        if progress.stage is Phase.ACQUIRED:
            self._on_news()

    def _log_failing(self, view: View | None) -> None:
        """Log once that no member is healthy any more."""
        fails = view is not None and view.fails_altogether
        if fails and not self._all_failed:
            log.warning(
                "every member fails its checks: all keep their buckets,"
                " because a bad answer is better than none"
            )
        self._all_failed = fails
