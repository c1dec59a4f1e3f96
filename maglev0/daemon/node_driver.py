"""Drives one node's part in the cluster: builds its two strands and what works beside them."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable

from maglev0.coordination.session import Session
from maglev0.core.view import DRY_RUN, Member, View
from maglev0.daemon.drain import Drain
from maglev0.daemon.idle_work import IdleWork
from maglev0.daemon.ownership_log import OwnershipLog
from maglev0.daemon.planner import Planner
from maglev0.daemon.reconciler import Reconciler
from maglev0.daemon.renewal_strand import RenewalStrand
from maglev0.daemon.sweeper import Sweeper
from maglev0.daemon.view_strand import ViewStrand
from maglev0.errors import DataplaneError
from maglev0.protocol.agreement import Agreement, Unsettled
from maglev0.protocol.lease import terms
from maglev0.protocol.node_state import Environment
from maglev0.protocol.orders import Wish
from maglev0.protocol.participant import Participant
from maglev0.protocol.ports.zookeeper import Disconnected
from maglev0.protocol.progress import ClusterContext, ConnectionCount, Progress
from maglev0.runtime.waiting import together

log = logging.getLogger(__name__)

LEAVE_TIMEOUT_S = 0.8


class NodeDriver:
    """One node's part. `follow` runs for ever, `drain` beside it; `leave` comes after `follow`.

    `on_progress` is called whenever `progress` may have changed; it must not wait.
    """

    def __init__(
        self,
        session: Session,
        reconciler: Reconciler,
        agreement: Agreement,
        cluster: ClusterContext,
        me: Member,
    ) -> None:
        settings = cluster.settings
        self.on_progress: Callable[[], None] = _no_listener
        self.has_withdrawn = False  # ZooKeeper has confirmed that this node is no member
        self._session = session
        self._reconciler = reconciler
        self._awake = asyncio.Event()
        self._planner = Planner(me, settings.total_nodes)
        environment = Environment(
            session,
            reconciler,
            reconciler,
            reconciler,
            time.monotonic,
            self._share,
            self._awake.set,
            cluster.kernel,
            os.getpid(),
            cluster.hold,
        )
        self._part = part = Participant(
            environment,
            agreement,
            cluster.paths,
            me=me,
            total_nodes=settings.total_nodes,
            terms=terms(settings.lease_ms),
        )
        ownership_log = OwnershipLog(
            me.name,
            "DRY-RUN" if me.state == DRY_RUN else me.dataplane.upper(),
            settings.total_nodes,
            reconciler.read_back,
        )
        idle = IdleWork(part, self._planner, reconciler, ownership_log, self._awake)
        self._view = ViewStrand(
            session,
            reconciler,
            part,
            idle=idle,
            ownership_log=ownership_log,
            awake=self._awake,
            on_round=self._call_listener,
        )
        self._renewals = RenewalStrand(part, self._view.next_round, self._call_listener)
        self._sweeper = Sweeper(part)

    @property
    def progress(self) -> Progress:
        """How far this node has come."""
        handover, node_state = self._part.handover, self._part.node_state
        return Progress(
            me=node_state.me,
            is_member=node_state.is_member,
            view=handover.view,
            view_at=handover.seen_at,
            obeys=handover.obeys,
            stage=handover.stage,
            held=handover.held,
            lease_left_s=handover.lease_until - time.monotonic(),
            kept=len(node_state.kept),
            ownership=self._planner.ownership,
        )

    @property
    def connections(self) -> ConnectionCount | None:
        """The latest count of connections; `None` while the number is unknown."""
        return self._sweeper.count

    @property
    def before(self) -> dict[int, int]:
        """The weights, by member id, from which the table before the current one was built."""
        return self._planner.before

    @property
    def leaving(self) -> bool:
        """Whether the node was asked to give everything up."""
        return self._part.node_state.leaving

    @property
    def is_stuck(self) -> bool:
        """Whether the renewals do not come round any more, though the event loop turns."""
        return self._renewals.is_stuck(self._session.timeout_s)

    def wish(self, wish: Wish) -> None:
        """Have this node's record say so; the hand-over that this takes follows."""
        self._part.wish(wish.state, wish.weight)

    def notice(self, path: str | None) -> None:
        """Take a notification of ZooKeeper, see `Participant.notice`."""
        self._part.notice(path)

    def kernel_changed(self) -> None:
        """React to a repair of the kernel, or to one that failed; a repair may end the lease."""
        self._part.renewal.soon()
        self._awake.set()

    async def follow(self) -> None:
        """Take part for ever. Raises MaglevError for what only the operator can fix."""
        self._part.node_state.keeps(await self._reconciler.kept())
        await together(self._view.run(), self._renewals.run(), self._sweeper.run())

    async def drain(self, timeout_s: float) -> None:
        """Give everything up, and wait at most that long for connections to end."""
        await Drain(self._part, self._sweeper, self._view.next_round).run(timeout_s)

    async def leave(self) -> None:
        """Stop being a member; a ZooKeeper that does not answer is not waited for."""
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                self.has_withdrawn = await self._part.joining.withdraw()
        except (Disconnected, Unsettled, TimeoutError, DataplaneError) as error:
            log.debug("left without telling ZooKeeper: %r", error)

    async def renew_once(self) -> None:
        """Renew the lease a last time, if ZooKeeper answers at once."""
        await self._renewals.renew_once()

    async def _share(self, view: View) -> frozenset[int]:
        return await self._planner.share(view)

    def _call_listener(self) -> None:
        self.on_progress()


def _no_listener() -> None:
    """Nothing listens yet."""
