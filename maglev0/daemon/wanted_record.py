"""What the record of this node must say: its flags, the operator's order and its health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ipaddress import IPv4Address

from maglev0.config.configuration import Config
from maglev0.coordination.session import Session, SessionState
from maglev0.core.view import name_of
from maglev0.health.runner import CheckOutcome, CheckRunner
from maglev0.protocol import orders
from maglev0.protocol.orders import Order, Wish
from maglev0.protocol.ports.zookeeper import Disconnected
from maglev0.runtime.waiting import Backoff, together, until_set

log = logging.getLogger(__name__)


class WantedRecord:
    """The wanted record of one member of one VIP. `learn` first, then `run` for ever.

    `changed` is called, on the loop, whenever `wish` or `problems` may differ from before.
    """

    def __init__(
        self,
        session: Session,
        order_path: str,
        vip: IPv4Address,
        config: Config,
        changed: Callable[[], None],
    ) -> None:
        self._session = session
        self._order_path = order_path
        self._vip = vip
        self._config = config
        self._changed = changed
        self._order = Order()
        self._order_problem = ""
        self._order_stale, self._reloaded = asyncio.Event(), asyncio.Event()
        self._checks = CheckRunner(vip, (), config.check_timing, changed)

    def wish(self, *, leaving: bool) -> Wish:
        """What the record must say now; `leaving`: the node gives everything up."""
        return orders.wish(
            self._order,
            self._config.weight,
            healthy=self._checks.healthy,
            dry_run=self._config.dry_run,
            leaving=leaving,
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for an order that cannot be read, and for each health check that is down."""
        order = (self._order_problem,) if self._order_problem else ()
        return (*order, *self._checks.problems)

    @property
    def results(self) -> tuple[CheckOutcome, ...]:
        """The last outcome of each health check that has run."""
        return self._checks.results

    def notice_order(self) -> None:
        """Have the order read again: it may have changed."""
        self._order_stale.set()

    def reload(self, config: Config) -> None:
        """Take weight and health checks from a new configuration."""
        before, self._config = self._config, config
        if (before.checks, before.check_timing) != (config.checks, config.check_timing):
            self._reloaded.set()
        self._changed()

    async def learn(self) -> None:
        """Read the order and wait for the first outcome of each health check."""
        await self._read_order()
        await self._check_first()

    async def run(self) -> None:
        """Follow orders and health for ever."""
        await together(self._follow_orders(), self._check())

    async def _read_order(self) -> None:
        """Read the order, however long ZooKeeper takes to answer.

        An order that cannot be read counts as none. So what a member does depends on what lies in
        ZooKeeper and not on what it read earlier: it does the same after a restart, and the
        commands for orders start from the same.
        """
        backoff = Backoff()
        while True:
            await self._session.until(SessionState.CONNECTED)
            self._order_stale.clear()
            try:
                znode = await self._session.get(self._order_path, watch=True)
            except Disconnected:
                await asyncio.sleep(backoff.failed())
                continue
            self._order_problem = ""
            try:
                is_ours = znode is not None and znode.ours
                self._order = orders.decode(znode.data) if znode and is_ours else Order()
            except ValueError as error:
                self._order = Order()
                self._order_problem = f"the order at {self._order_path} cannot be read: {error}"
                log.warning(
                    "%s; this counts as no order until drain, undrain or weight replaces it",
                    self._order_problem,
                )
            return

    async def _follow_orders(self) -> None:
        logged = Order()
        while True:
            if self._order != logged:
                name = name_of(self._config.my_id)
                log.info("%s is %s", name, _in_words(self._order, self._config.weight))
                logged = self._order
            self._changed()
            await self._order_stale.wait()
            await self._read_order()

    async def _check_first(self) -> None:
        """Take the health checks of the configuration, and wait for the first outcome of each."""
        self._reloaded.clear()
        config = self._config
        checks = CheckRunner(self._vip, config.checks, config.check_timing, self._changed)
        await checks.first()
        self._checks = checks

    async def _check(self) -> None:
        """Run health checks for ever; a reload replaces them."""
        while True:
            await together(self._checks.run(), until_set(self._reloaded))
            await self._check_first()
            self._changed()


def _in_words(order: Order, own_weight: int) -> str:
    weight = (
        f"ordered to have weight {order.weight}"
        if order.weight is not None
        else f"of its own weight {own_weight}"
    )
    return f"ordered to drain, {weight}" if order.drained else f"not ordered to drain, {weight}"
