"""One host with its daemon, and the orders that an operator gives.

The participant's two strands are driven as the daemon drives them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from ipaddress import IPv4Address
from typing import NamedTuple

from maglev0.core.assignment import decide
from maglev0.core.service import HashFamily
from maglev0.core.settings import Settings, Wishes
from maglev0.core.view import ACTIVE, DRY_RUN, Member, View, name_of
from maglev0.errors import DataplaneError, MaglevError
from maglev0.protocol.agreement import Agreement, Founder, Unsettled
from maglev0.protocol.lease import terms
from maglev0.protocol.node_state import Environment
from maglev0.protocol.participant import Participant
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import Disconnected, Refused
from tests.simulation.client import Client
from tests.simulation.ensemble import Ensemble, Session
from tests.simulation.kernel import Kernel, ProcessGate, Temper
from tests.simulation.scheduler import Answer, Process, Scheduler

PATHS = Paths("/maglev0/192.0.2.1")
VIP = IPv4Address("192.0.2.1")
SESSION_S = 1.0
LEASE_MS = 666  # two thirds of a session
AGAIN = (Disconnected, Unsettled, Refused)
SPINS = 200  # rounds without time passing
RESTART_S = 1.0
BELIEF_S = 0.05  # of a lease that is about to end: clocks differ by less


class Flags(NamedTuple):
    """What an operator tells a daemon on its command line."""

    weight: int = 1
    timeout_s: float = SESSION_S
    dry_run: bool = False
    hold: bool = False
    state: str = ACTIVE  # or what operators and health checks make of it


class Left(NamedTuple):
    """What a daemon that was killed leaves for the next one on its host."""

    session: Session
    timeout_s: float
    settings: Settings | None


def same_timeout(left: Left, timeout_s: float) -> bool:
    """Whether a daemon may take a session back: only with the timeout that it has.

    Otherwise it may end by either.
    """
    return left.timeout_s == timeout_s


class Make(NamedTuple):
    """What a daemon is made of."""

    participant: Callable[..., Participant] = Participant
    takes_back: Callable[[Left, float], bool] = same_timeout


class Site(NamedTuple):
    """What all nodes of a schedule have in common."""

    scheduler: Scheduler
    ensemble: Ensemble
    buckets: int
    temper: Temper
    make: Make


class StuckError(AssertionError):
    """A daemon does the same again and again without end, or ended where it should not have."""


@lru_cache(maxsize=4096)
def share(view: View, buckets: int, name: str, *, dry_run: bool = False) -> frozenset[int]:
    """A member's share of a view."""
    return decide(view, buckets, dry_run=dry_run).of(name)


class Node:
    """One daemon on one host; restarts make another of the same id on the same kernel."""

    def __init__(  # noqa: PLR0917
        self,
        site: Site,
        number: int,
        kernel: Kernel,
        process: Process,
        flags: Flags,
        left: Left | None = None,
    ) -> None:
        self.number = number
        self.kernel = kernel
        self.process = process
        self.flags = flags
        self.leaving = False
        self.done = False
        self.fault: MaglevError | None = None
        self.known: set[int] = set()  # members seen since it started
        self.participant: Participant | None = None
        self._site = site
        self._scheduler = site.scheduler
        self._woken = False
        self._waiting: Answer[None] = Answer()
        self._renewing: Answer[None] = Answer()
        self._broken = False
        self._disturbed = self._noticed = 0  # how often something outside took the lease away
        self._left = (
            left if left is not None and site.make.takes_back(left, flags.timeout_s) else None
        )
        self._settings = None if self._left is None else self._left.settings
        self.client = Client(
            site.ensemble,
            process,
            self._notice,
            flags.timeout_s,
            None if self._left is None else self._left.session,
        )
        self.gate = ProcessGate(kernel, process, site.scheduler, LEASE_MS / 1000, site.temper)
        kernel.serves, kernel.holds = not flags.dry_run, flags.hold
        process.skips = site.temper.skips
        self._strands = [process.start(self._serve())]

    def __repr__(self) -> str:
        return self.process.name

    @property
    def running(self) -> bool:
        """Whether the daemon lives and is not about to end."""
        return self.process.alive and not self.leaving

    def _notice(self, path: str | None) -> None:
        if self.participant is not None:
            self.participant.notice(path)
        self._wake()

    def _wake(self) -> None:
        self._woken = True
        self._waiting.settle(None)

    async def _pause(self, seconds: float | None) -> None:
        """Wait until woken, or for a time."""
        if self._woken:
            return
        answer: Answer[None] = Answer()
        self._waiting = answer
        if seconds is not None:
            self._scheduler.after(
                self.process.span(max(seconds, 0.0)), partial(answer.settle, None)
            )
        await answer

    async def _serve(self) -> None:
        try:
            agreement = await self._agree()
        except MaglevError as error:
            self.process.start(self._give_up(error))
            return
        site = self._site
        host = Environment(
            self.client,
            self.gate,
            self.gate,
            self.gate,
            self.process.clock,
            self._share,
            self._wake,
            self.kernel.name,
            4711,
            self.flags.hold,
        )
        make = site.make.participant
        self.participant = make(
            host,
            agreement,
            PATHS,
            me=self._member(),
            total_nodes=site.buckets,
            terms=terms(LEASE_MS),
        )
        self.participant.node_state.keeps(await self.gate.kept())
        self.participant.renewal.wake = lambda: self._renewing.settle(None)
        self._strands += [
            self.process.start(self._renewals(self.participant)),
            self.process.start(self._sweeps(self.participant)),
        ]
        await self._rounds(self.participant)

    def _member(self) -> Member:
        return Member(
            self.number,
            "host",
            4711,
            0.0,
            "",
            "",
            HashFamily.NFTABLES,
            self.flags.weight,
            self.state,
            self.flags.timeout_s,
        )

    @property
    def state(self) -> str:
        """What its record says of it while it is not leaving."""
        return DRY_RUN if self.flags.dry_run else self.flags.state

    def wish(self, state: str, weight: int) -> None:
        """An operator or a health check has it say something else of itself."""
        self.flags = self.flags._replace(state=state, weight=weight)
        if self.participant is not None and self.running:
            self._scheduler.trace(self, f"wishes {state} {weight}")
            self.participant.wish(self.state, weight)

    async def _agree(self) -> Agreement:
        agreement = Agreement(self.client, PATHS)
        wishes = Wishes(self._site.buckets, None, None, None, (HashFamily.NFTABLES,))
        while True:
            left = self._left
            settings = (
                left.settings
                if left is not None and left.session.id == self.client.session
                else None
            )
            try:
                self._settings = await agreement.agree(
                    self.number, wishes, Founder(VIP, SESSION_S, 1, settings)
                )
            except (Disconnected, Unsettled, Refused):
                await self.process.sleep(0.1)
            else:
                return agreement

    async def _share(self, view: View) -> frozenset[int]:
        if self._scheduler.chance(0.1):
            await self.process.sleep(0.02 * self._scheduler.random.random())
        return self.share(view)

    def share(self, view: View) -> frozenset[int]:
        """What this node owns under a view."""
        return share(view, self._site.buckets, name_of(self.number), dry_run=self.flags.dry_run)

    async def _rounds(self, participant: Participant) -> None:
        delay_s, spins, at = 0.1, 0, -1.0
        while True:
            self._woken = False
            pause_s: float | None
            try:
                if self._broken:
                    await self._recover(participant)
                pause_s = await participant.round()
                self._learn(participant)
                delay_s = 0.1
            except AGAIN:
                pause_s, delay_s = delay_s, min(2 * delay_s, 1.0)
                await self.process.sleep(pause_s)
                continue
            except DataplaneError:
                self._broken = True
                continue
            except MaglevError as error:
                self.process.start(self._give_up(error))
                return
            spins, at = (spins + 1, at) if at == self._scheduler.now else (0, self._scheduler.now)
            if spins > SPINS:
                raise StuckError(f"{self} spins")
            await self._pause(pause_s)

    def _learn(self, participant: Participant) -> None:
        if participant._seen is not None:
            own = {self.number} if participant.node_state.is_member else set()
            self.known.update({member.id for member in participant._seen.view.members} - own)

    def disturb(self) -> None:
        """Something outside ends the lease; the daemon notices a moment later."""
        self._disturbed += 1
        self.kernel.end_lease()
        if self.participant is not None and self.process.alive:
            self.process.start(self._repair(self.participant))

    async def _repair(self, participant: Participant) -> None:
        await self.process.sleep(0.02 * self._scheduler.random.random())
        try:
            await participant.renewal.distrust()
        except DataplaneError:
            self._broken = True
            self._wake()
        finally:
            self._noticed += 1

    async def _recover(self, participant: Participant) -> None:
        """The kernel refused something: be no member until it can be used again."""
        participant.node_state.held_unsure()
        try:
            await participant.joining.withdraw()
        except AGAIN:
            await self.process.sleep(0.1)
            raise
        self._broken = False
        await self.process.sleep(0.3)

    async def _renewals(self, participant: Participant) -> None:
        while True:
            try:
                pause_s = await participant.renewal.renew()
                if self._noticed == self._disturbed:
                    self._check_lease(participant)
            except DataplaneError:
                pause_s = participant.handover.terms.interval_s
            except AGAIN:
                pause_s = 0.1
            except MaglevError as error:
                self.process.start(self._give_up(error))
                return
            if not participant.renewal.due:
                answer: Answer[None] = Answer()
                self._renewing = answer
                self._scheduler.after(self.process.span(pause_s), partial(answer.settle, None))
                await answer

    def _check_lease(self, participant: Participant) -> None:
        """What the hand-over believes of the lease is what the kernel has."""
        believed_s = participant.handover.lease_until - self.process.clock()
        if believed_s > BELIEF_S and self.kernel.lease_end <= self._scheduler.now:
            raise StuckError(f"{self} believes in a lease that its kernel does not have")

    async def _sweeps(self, participant: Participant) -> None:
        while True:
            await self.process.sleep(0.1 + 0.4 * self._scheduler.random.random())
            try:
                await participant.sweep()
            except DataplaneError:
                self._broken = True
                self._wake()

    async def _give_up(self, error: MaglevError) -> None:
        """An error that only an operator can fix ends the daemon."""
        self._scheduler.trace(self, "gives up:", error)
        self.fault, self.leaving = error, True
        await self._end()

    def leave(self, drain_s: float) -> None:
        """Leave in order."""
        if self.running:
            self.leaving = True
            self.process.start(self._leave(drain_s))

    async def _leave(self, drain_s: float) -> None:
        self._scheduler.trace(self, "leaves")
        deadline = self._scheduler.now + drain_s
        if self.participant is not None:
            self.participant.leave()
            while self._scheduler.now < deadline and not (
                self.participant.node_state.is_drained and not self.kernel.connections
            ):
                await self.process.sleep(0.05)
        await self._end()

    async def _end(self) -> None:
        """Withdraw, end the session, remove everything."""
        for strand in self._strands:
            strand.cancel()
        if self.participant is not None:
            for _attempt in range(5):
                try:
                    await self.participant.joining.withdraw()
                    break
                except AGAIN:
                    await self.process.sleep(0.2)
        await self.client.close()
        self.kernel.clear()
        self._scheduler.trace(self, "ended")
        self.done = True
        self._scheduler.after(0.0, self._vanish)

    def kill(self) -> Left | None:
        """End the process at once; the kernel stays as it is."""
        self._scheduler.trace(self, "killed")
        self.process.end()
        self.client.abandon()
        session = self.client.truth
        return None if session is None else Left(session, self.flags.timeout_s, self._settings)

    def _vanish(self) -> None:
        self.kill()
