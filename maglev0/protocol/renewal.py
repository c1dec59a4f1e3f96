"""The renewal of one node's lease: the strand that runs beside `Participant.round`.

Pure: imports no I/O. A renewal also writes the acknowledgement that is due. A pause can only
shorten a lease: the kernel's timer is started before the renewal is sent, in the slot that is not
in force, and on success that slot is promoted, with whatever time is left in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from maglev0.core.view import ViewId
from maglev0.errors import ZooKeeperError
from maglev0.protocol.agreement import Agreement, Unsettled
from maglev0.protocol.membership import Membership
from maglev0.protocol.node_state import Environment, NodeState
from maglev0.protocol.ports.zookeeper import Disconnected, Refused

log = logging.getLogger(__name__)

RETRY_SHARE = 1 / 2  # of the interval: a renewal that failed is tried again sooner


class News(Protocol):
    """How a renewal tells the strand that follows the view what it found."""

    def __call__(self, *, view: bool) -> None:
        """Look at the hand-over again; `view`: at the members, too."""


class Renewal:
    """One node's renewals.

    Call `renew` again and again: after as many seconds as it returned, or as soon as `due` is set.
    `wake` is called then.
    """

    def __init__(
        self,
        node_state: NodeState,
        membership: Membership,
        agreement: Agreement,
        environment: Environment,
        news: News,
    ) -> None:
        self.due = False
        self.wake: Callable[[], None] = _nobody
        self._state = node_state
        self._membership = membership
        self._agreement = agreement
        self._environment = environment
        self._was_refused = False
        self._news = news

    def soon(self) -> None:
        """Make the next renewal due now."""
        self.due = True
        self.wake()

    async def distrust(self) -> None:
        """End the lease: its timer may have stood still while others waited for its end."""
        self._state.handover.lease_dropped()
        await self._environment.lease_timer.drop()
        self.soon()

    async def renew(self) -> float:
        """Renew once; return in how many seconds to renew again.

        Raises DataplaneError, and ZooKeeperError when another process renews the lease of this
        node's id.
        """
        self.due = False
        interval_s = self._state.handover.terms.interval_s
        if not self._state.is_member:
            return interval_s
        started_at = self._environment.clock()
        await self._environment.lease_timer.arm()
        try:
            shown = await self._written(started_at)
            await self._worth(shown, started_at)
        except Refused as refused:
            await self._fix(refused)
        except Disconnected:
            self._state.lease_unsure()
            await self._hold_on()
        else:
            return interval_s
        return interval_s * RETRY_SHARE

    async def _written(self, started_at: float) -> ViewId | None:
        """Write the lease, and return the view that was current right after the write."""
        node_state = self._state
        if not node_state.lease_known:
            await self._learn_version()
        version, record_version = node_state.lease_version, node_state.record_version
        if record_version is None:
            raise Disconnected  # it left meanwhile
        ack = node_state.owed_ack()
        zxid, shown = await self._membership.renew(
            node_state.lease_record(), record_version, version, ack
        )
        node_state.renewed(version, ack)
        if zxid:
            node_state.handover.dates.reached(zxid, self._environment.clock())
        node_state.handover.confirmed(shown, started_at)
        return shown

    async def _learn_version(self) -> None:
        """Read which version of the lease znode to write over.

        Where another kernel wrote it, another process has this node's id: ends the lease, raises
        ZooKeeperError.
        """
        node_state = self._state
        found = await self._membership.lease(node_state.me.id)
        if (
            found is not None
            and found.record is not None
            and found.record.kernel not in ("", node_state.kernel)
        ):
            node_state.handover.lease_dropped()
            await self._environment.lease_timer.drop()
            who = f"pid {found.record.pid} of another host"
            raise ZooKeeperError(
                f"the lease of id {node_state.me.id} is renewed by another daemon ({who}): "
                "stop one of the two, or give it another --my-id"
            )
        node_state.lease_read(None if found is None else found.stat.version)

    async def _worth(self, shown: ViewId | None, started_at: float) -> None:
        """Put the lease in force if the renewal is worth it."""
        self._was_refused = False
        handover = self._state.handover
        if shown is not None and handover.may_promote(shown, self._environment.clock()):
            news = handover.secure != shown or handover.lease_until <= started_at
            drops = handover.drops
            await self._environment.lease_timer.promote()  # DataplaneError: `drop` came after `arm`
            if drops != handover.drops:
                return  # `drop` came after `promote`: the kernel has no lease
            handover.renewed(shown, started_at)
            if news:
                self._news(view=False)
        elif shown == handover.obeys:
            self._news(view=False)  # the lease lapsed meanwhile
        if shown != handover.view_id:
            self._news(view=True)

    async def _fix(self, refused: Refused) -> None:
        """Find out why a renewal was refused, and prepare the next one.

        It is due at once after a first refusal only, so that somebody who interferes again and
        again causes no more requests.
        """
        self._state.lease_unsure()
        if refused.index == 0:
            self._news(view=True)  # the record is gone, or somebody else wrote to it
            return
        with suppress(Disconnected, Unsettled):
            if refused.reason.missing:
                await self._agreement.ensure_paths()
            if refused.index > 1:
                await self._membership.restore_ack()
            await self._learn_version()
        if not self._was_refused:
            self.soon()
        self._was_refused = True

    async def _hold_on(self) -> None:
        """Keep the lease without ZooKeeper, under the last secure view, with --zk-loss=hold.

        Then two nodes may accept new flows in one bucket (manual: how-it-works, Promises).
        """
        handover = self._state.handover
        if (
            self._environment.hold
            and handover.secure is not None
            and handover.secure == handover.obeys
        ):
            await self._environment.lease_timer.arm()
            await self._environment.lease_timer.promote()


def _nobody() -> None:
    """Do nothing: nobody listens yet."""
