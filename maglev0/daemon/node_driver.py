"""Drives one node's part in the cluster: both strands of the protocol, beside them what the log tells of it, and the sweeping of old connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Callable
from functools import partial

from maglev0.coordination.session import Session, SessionState
from maglev0.core.assignment import Assignment, decide
from maglev0.core.failover_plans import FailoverPlans
from maglev0.core.view import DRY_RUN, Member, View
from maglev0.daemon import ownership_log
from maglev0.daemon.reconciler import Reconciler
from maglev0.errors import DataplaneError, MaglevError
from maglev0.protocol.agreement import Agreement, Unsettled
from maglev0.protocol.handover import NOTHING, Phase
from maglev0.protocol.lease import terms
from maglev0.protocol.node_state import Environment
from maglev0.protocol.orders import Wish
from maglev0.protocol.participant import Participant
from maglev0.protocol.ports.zookeeper import Disconnected, Refused
from maglev0.protocol.progress import ClusterContext, Progress
from maglev0.runtime import clocks
from maglev0.runtime.waiting import Backoff, first_of, in_thread, together, woken

log = logging.getLogger(__name__)

MAX_RETRY_S = 1.0
SWEEP_S = 1.0  # between two looks at the connections in buckets that have moved
SWEEP_COST = 50  # and at least so many times as long as a look took
PROGRESS_S = 5.0
LEAVE_TIMEOUT_S = 0.8
RENEW_TIMEOUT_S = 0.2
STUCK_LEASES = 2  # a renewal waits for its turn, for the kernel and for ZooKeeper, of which the latter's part is bounded by the session timeout
QUIET_S = 0.03
SLICE_S = 0.0005  # of foresight at a time: a change that comes meanwhile waits for the rest of a step, which takes no longer either
CATCH_UP_PART = 1 / 2  # of a core, for some 50 ms at 65,537 node numbers: the log waits for it
LOOK_AHEAD_PART = (
    1 / 10
)  # of a core, for some 0.2 s for each member: next to nothing beside what the node serves, and no change comes sooner


class NodeDriver:
    """One node's part. `follow` runs for ever; `drain` beside it gives everything up; `leave` is called when `follow` has ended."""

    def __init__(
        self,
        session: Session,
        reconciler: Reconciler,
        agreement: Agreement,
        cluster: ClusterContext,
        me: Member,
    ) -> None:
        paths, settings = cluster.paths, cluster.settings
        self._session = session
        self._reconciler = reconciler
        self._total_nodes = settings.total_nodes
        self._awake = asyncio.Event()
        self._due = asyncio.Event()
        self._backoff = Backoff(MAX_RETRY_S)
        self._plans = FailoverPlans(me.name, settings.total_nodes, dry_run=me.state == DRY_RUN)
        self._said: tuple[Assignment | None, frozenset[int]] = (None, frozenset())
        self._tidied: frozenset[int] | None = None  # what was held when the kernel was tidied last
        self._progressed = asyncio.Event()
        self.alive: int | None = (
            None  # connections, counted while some are kept in buckets that moved
        )
        self.has_withdrawn = False  # ZooKeeper has confirmed that this node is no member
        self.on_progress: Callable[[], None] = (
            _nobody  # is called whenever `progress` may be another
        )
        self._turned_at = time.monotonic()  # when the strand of the renewals came round last
        host = Environment(
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
        self._part = Participant(
            host,
            agreement,
            paths,
            me=me,
            total_nodes=settings.total_nodes,
            terms=terms(settings.lease_ms),
        )
        self._part.renewal.wake = self._due.set

    @property
    def _me(self) -> Member:
        return self._part.node_state.me

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
            ownership=self._plans.ownership,
        )

    @property
    def before(self) -> dict[int, int]:
        """What the table before the one at hand was built from: weights, by member id."""
        return self._plans.before

    @property
    def leaving(self) -> bool:
        """Whether it was told to give everything up."""
        return self._part.node_state.leaving

    @property
    def is_stuck(self) -> bool:
        """Whether the renewals do not come round any more, though the loop turns."""
        return (
            time.monotonic() - self._turned_at
            > STUCK_LEASES * self._part.handover.terms.length_s + self._session.timeout_s
        )

    def wish(self, wish: Wish) -> None:
        """Have this node's record say so; the hand-over that this takes follows."""
        self._part.wish(wish.state, wish.weight)

    def notice(self, path: str | None) -> None:
        """Take what ZooKeeper tells, see `Participant.notice`."""
        self._part.notice(path)

    def kernel_changed(self) -> None:
        """Something was mended, or cannot be: look what that means, and bring back a lease that a mending ended."""
        self._part.renewal.soon()
        self._awake.set()

    async def follow(self) -> None:
        """Take part, for ever. Raises MaglevError for what only the operator can mend."""
        self._part.node_state.kept = await self._reconciler.kept()
        await together(
            self._rounds(),
            self._renewals(),
            self._leases(),
            self._sweeps(),
            clocks.watch(self._jumped),
        )

    async def _rounds(self) -> None:
        while True:
            self._awake.clear()
            pause_s = await self._round()
            self._progressed.set()
            self.on_progress()
            if pause_s == 0:
                await asyncio.sleep(0)
                continue
            until_s = math.inf if pause_s is None else time.monotonic() + pause_s
            # What there is to tell can wait until nobody else does: reading the kernel back costs as much as a hand-over.
            await self._wait(until_s, QUIET_S)
            if not self._awake.is_set():
                await self._use_quiet(until_s)

    async def _wait(self, until_s: float, most_s: float = math.inf) -> None:
        """Return when there is something to do, or time is up."""
        wait_s = min(most_s, max(0.0, until_s - time.monotonic()))
        await woken(self._awake, None if wait_s == math.inf else wait_s)

    async def _use_quiet(self, until_s: float) -> None:
        """Tell what happened and be ready for what may, a little at a time; then wait."""
        acquired = self._part.node_state.handover.stage is Phase.ACQUIRED
        while (
            acquired
            and self._plans.ownership is None
            and await self._stepped(CATCH_UP_PART, until_s)
        ):
            pass
        if self._awake.is_set():
            return
        await self._tell()
        if acquired:
            await self._tidy()
        while acquired and await self._stepped(LOOK_AHEAD_PART, until_s):
            pass
        await self._wait(until_s)

    async def _tidy(self) -> None:
        """Have the kernel end the last move for good, unless another comes: what that one has to load is then itself alone.

        Who is alone leaves it: holding all twice takes the most memory, and the next to come takes away so much that nothing is gained.
        """
        held = self._part.handover.held

        async def settle() -> None:
            await self._reconciler.stage(NOTHING)
            self._tidied = held

        if self._tidied is not held and self._part.handover.peers:
            await first_of(settle(), self._awake.wait())

    async def _stepped(self, part: float, until_s: float) -> bool:
        """Take some steps of foresight, then leave the processor alone, so that they cost that part of it; return whether to go on."""
        start_s = time.monotonic()
        while (more := self._plans.step()) and time.monotonic() - start_s < SLICE_S:
            pass
        await self._wait(until_s, (time.monotonic() - start_s) * (1 / part - 1))
        return more and not self._awake.is_set() and time.monotonic() < until_s

    async def _round(self) -> float | None:
        if self._session.state is not SessionState.CONNECTED:
            return None
        try:
            pause_s = await self._next_step()
        except (Disconnected, Unsettled, Refused) as error:
            log.debug("this round ends: %r", error)
            return self._backoff.failed()
        except DataplaneError as error:
            log.debug("this round ends: %s", error)
            self._part.node_state.held_known = False
            return self._backoff.failed()
        self._backoff.succeeded()
        return pause_s

    async def _next_step(self) -> float | None:
        node_state = self._part.node_state
        if not self._reconciler.able:
            if node_state.is_member:
                log.warning("%s leaves the cluster: this node cannot serve", self._me.name)
                node_state.held_known = False
                await self._part.joining.withdraw()
                self._part.notice(None)
            self._said = (None, frozenset())
            return None
        if not node_state.is_member:
            self._part.tell_session_timeout(self._session.timeout_s)
        return await self._part.round()

    async def _tell(self) -> None:
        """Print what is news of ownership, if the kernel can be asked."""
        node_state = self._part.node_state
        with contextlib.suppress(DataplaneError):
            if node_state.handover.stage is Phase.ACQUIRED:
                await self._say()
            elif not node_state.is_member and self._said[0] is not None:
                self._said = (None, frozenset())
                log.info(
                    "%s",
                    ownership_log.kernel_line(
                        self._label, await self._reconciler.owned(), self._total_nodes
                    ),
                )

    async def _renewals(self) -> None:
        while True:
            self._due.clear()
            self._turned_at = time.monotonic()
            try:
                pause_s = await self._part.renewal.renew()
            except DataplaneError as error:
                log.debug("no renewal: %s", error)
                pause_s = self._part.handover.terms.interval_s
            await woken(self._due, pause_s)

    async def _leases(self) -> None:
        """Tell when the kernel has stopped accepting new flows because no renewal came, and when it accepts them again."""
        handover = self._part.handover
        while True:
            await asyncio.sleep(
                max(handover.lease_until - time.monotonic(), handover.terms.interval_s)
            )
            over_s = time.monotonic() - handover.lease_until
            if over_s <= 0 or not handover.held:
                continue
            log.warning(
                "no new flow is accepted any more in %d node numbers: no renewal from ZooKeeper in time",
                len(handover.held),
            )
            self.on_progress()
            await self._served_again()
            self.on_progress()
            log.info("new flows are accepted again")

    async def _served_again(self) -> None:
        handover = self._part.handover
        while handover.lease_until <= time.monotonic():
            self._progressed.clear()  # a lease that begins anew makes a round
            await self._progressed.wait()

    async def _jumped(self, jump_s: float) -> None:
        log.warning(
            "this machine's clocks jumped by %.1f s: the lease is given up and taken anew", jump_s
        )
        try:
            await self._part.renewal.distrust()
        except DataplaneError as error:
            log.debug("the lease cannot be ended: %s", error)

    async def _sweeps(self) -> None:
        pause_s = SWEEP_S
        while True:
            await asyncio.sleep(pause_s)
            if not self._part.node_state.kept:
                self.alive = None
            else:
                pause_s = SWEEP_COST * (await self._swept())[1]
            pause_s = max(SWEEP_S, pause_s)

    async def _swept(self) -> tuple[int, float]:
        """Sweep once; how many connections live, and how long the look took, in seconds."""
        start_s = time.monotonic()
        try:
            alive = await self._part.sweep()
        except DataplaneError as error:
            log.debug("connections not counted: %s", error)
            alive = 0
        self.alive = alive
        return alive, time.monotonic() - start_s

    async def drain(self, timeout_s: float) -> None:
        """Give everything up, and wait for connections to end, at most for that time."""
        deadline_s = time.monotonic() + timeout_s
        self._part.leave()
        await self._handed_over()
        said_s, said = 0.0, -1
        while (alive := (await self._swept())[0]) and time.monotonic() < deadline_s:
            if alive != said and time.monotonic() > said_s + PROGRESS_S:
                log.info(
                    "draining: %d connections left, for at most another %.0f s",
                    alive,
                    deadline_s - time.monotonic(),
                )
                said_s, said = time.monotonic(), alive
            await asyncio.sleep(min(SWEEP_S, max(0.0, deadline_s - time.monotonic())))
        if alive:
            log.warning("leaving with %d connections: they end with this node's part", alive)

    async def _handed_over(self) -> None:
        """Wait until the others have taken over; without ZooKeeper, until nothing is accepted here any more."""
        give_up_s = time.monotonic() + 2 * self._part.handover.terms.over_s
        while not self._part.node_state.is_drained and time.monotonic() < give_up_s:
            self._progressed.clear()
            await woken(self._progressed, give_up_s - time.monotonic())

    async def leave(self) -> None:
        """Be no member any more; a ZooKeeper that does not answer is not waited for."""
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                self.has_withdrawn = await self._part.joining.withdraw()
        except (Disconnected, Unsettled, TimeoutError, DataplaneError) as error:
            log.debug("left without a word: %r", error)

    async def renew_once(self) -> None:
        """Renew the lease a last time, if ZooKeeper answers at once."""
        with contextlib.suppress(MaglevError, Unsettled, TimeoutError):
            async with asyncio.timeout(RENEW_TIMEOUT_S):
                await self._part.renewal.renew()

    async def _share(self, view: View) -> frozenset[int]:
        """What this node owns under a view."""
        share = self._plans.share(view)
        if share is None:
            # In a thread: a table of a million slots takes seconds, and signals must not wait for it.
            ownership = await in_thread(
                partial(decide, view, self._total_nodes, dry_run=self._me.state == DRY_RUN)
            )
            share = self._plans.decided(view, ownership)
        return share

    async def _say(self) -> None:
        """Print who owns what, and what the kernel really has, if that is news."""
        ownership = self._plans.ownership
        news = (ownership, self._part.handover.held)
        if ownership is None or (news[0] is self._said[0] and news[1] == self._said[1]):
            return
        held = await self._reconciler.owned()
        lines = (
            *ownership_log.ownership_lines(ownership, self._me.name),
            ownership_log.kernel_line(self._label, held, self._total_nodes),
        )
        for line in lines:
            log.info("%s", line)
        self._said = news

    @property
    def _label(self) -> str:
        return "DRY-RUN" if self._me.state == DRY_RUN else self._me.dataplane.upper()


def _nobody() -> None:
    """Nobody listens yet."""
