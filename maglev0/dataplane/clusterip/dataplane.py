"""The dataplane of kernels before 6.3: the iptables target CLUSTERIP, one rule per VIP.

The kernel filters packets, answers ARP and joins the cluster MAC. `/proc/net/ipt_CLUSTERIP/<vip>`
tells it which buckets are in force here. A guard before the rule holds the lease. Kernel source:
net/ipv4/netfilter/ipt_CLUSTERIP.c of Linux 6.2.

What a daemon adds carries a mark, so that a daemon started after a `kill -9` can tell it from what
an operator set up: the rules have a comment, the address has what `host.address` describes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from maglev0.core.service import HashFamily, Service
from maglev0.core.transition import Move
from maglev0.dataplane import rights
from maglev0.dataplane.clusterip import guard, modules, proc_file, xtables
from maglev0.dataplane.clusterip import rule as clusterip_rule
from maglev0.dataplane.host import address
from maglev0.dataplane.host.announcer import announcer_of
from maglev0.dataplane.host.link import find_link_up
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.protocol.ports.gate import Commit
from maglev0.protocol.ports.readings import Connections, Counters

log = logging.getLogger(__name__)

POLL_INTERVAL_S = (
    1.0  # legacy iptables announces no changes; one look costs about 1.5 ms, so 0.2 % of a core
)
NOTHING: frozenset[int] = frozenset()


def rule_by_hand(vip: IPv4Address) -> Service | None:
    """Return the service that an operator's rule for the VIP carries out; None without such a rule.

    A cluster that is founded here must have these settings.
    """
    if not proc_file.is_set_up(vip):
        return None
    with xtables.reading() as table:
        return next(
            (
                rule.service
                for rule in clusterip_rule.rules_of(table, vip)
                if rule.is_new and not rule.is_ours
            ),
            None,
        )


def check() -> None:
    """Raise `UnavailableError` when CLUSTERIP cannot serve on this machine.

    The error says what is missing and what fixes it. Changes no rule.
    """
    rights.require("clusterip")
    modules.check()
    xtables.load_iptc()


def empty_unguarded(vip: IPv4Address) -> None:
    """Put no bucket in force under a rule that has no guard.

    Such a rule was set up by hand, or by a version that had no guards.
    """
    if proc_file.is_set_up(vip) and not guard.is_there(vip):
        proc_file.empty(vip)


async def remove_leftovers(vip: IPv4Address) -> None:
    """Remove what a killed daemon left for the VIP.

    A rule set up by hand stays, with no bucket in force. Every step is tried, even when an earlier
    one failed; the first DataplaneError is raised.
    """
    if proc_file.is_set_up(vip) or guard.left_something(vip):
        await _remove_ours(vip)
    else:
        await address.remove_ours(vip)


async def _remove_ours(vip: IPv4Address) -> None:
    failures = _attempt(guard.end_what_is_left, vip)
    if proc_file.is_set_up(vip):
        failures += _attempt(proc_file.empty, vip)
    try:
        await address.remove_ours(vip)
    except DataplaneError as error:
        failures.append(error)
    with xtables.changing() as table:
        clusterip_rule.delete_ours(table, vip)
        guard.delete(table, vip)
    if failures and proc_file.is_set_up(
        vip
    ):  # when the rule vanished meanwhile, nothing is left to do
        raise failures[0]


def _attempt(step: Callable[[IPv4Address], object], vip: IPv4Address) -> list[DataplaneError]:
    try:
        step(vip)
    except DataplaneError as error:
        return [error]
    return []


class _Missing(NamedTuple):
    """Which of the rules are missing, or not as they should be."""

    rule: bool
    guard: bool


class ClusterIP:
    """The `Dataplane` of one service on the CLUSTERIP target.

    A bucket that moves breaks its connections, because the kernel hashes every packet by itself.
    `lease_ms` is the cluster's lease in milliseconds; the kernel counts its whole seconds.
    """

    family = HashFamily.CLUSTERIP

    def __init__(self, service: Service, lease_ms: int) -> None:
        self._service = service
        self._lease_s = lease_ms // 1000
        self._move = Move(NOTHING, NOTHING)
        self._in_force = NOTHING  # what the kernel is to hold, until `commit` changes it
        self._armed: int | None = None  # the slot whose timer was started and not promoted yet
        self._is_open = False

    async def open(self) -> None:
        """Insert guard and rule unless they exist, then place the address.

        A rule made by hand is used as it is and never removed; where it contradicts the service,
        `DataplaneError` names how. A rule of an earlier daemon that contradicts is replaced; its
        address is removed meanwhile. The rule comes with no bucket in force, and before the
        address, so the node accepts nothing that it does not own.
        """
        check()
        if self._lease_s < 1:
            raise UnavailableError(
                "clusterip cannot hold the cluster's lease: the kernel counts whole seconds, "
                "and the lease is shorter than one"
            )
        index = (await find_link_up(self._service.interface)).ifindex
        self._is_open = True
        await self._settle_rules()
        self._in_force = proc_file.read(self._service.vip)
        await self._ensure_address(index)

    async def stage(self, move: Move) -> None:
        """Remember the move: sixteen buckets need no preparation."""
        self._move = move

    async def commit(self, to: Commit) -> None:
        """Write to the proc file each bucket that goes or comes."""
        vip = self._service.vip
        if to is Commit.RELEASE:
            self._in_force -= (
                self._move.losses
            )  # released buckets stay released when the writing fails halfway and a repair follows
            proc_file.write(vip, proc_file.read(vip) - self._move.losses)
            return
        if not guard.is_there(vip):
            raise DataplaneError(f"taking buckets of {vip}: the guard rules are gone")
        proc_file.write(vip, proc_file.read(vip) | self._move.gains)
        self._in_force |= self._move.gains

    async def arm(self) -> None:
        """Start the timer of the slot that is not in force."""
        self._armed = guard.arm(self._service.vip)

    async def promote(self) -> None:
        """Put the started timer in force.

        DataplaneError when no timer was started, or when `drop` or `repair` ended it.
        """
        if self._armed is None:
            raise DataplaneError(
                f"promoting the lease of {self._service.vip}: no armed timer, "
                "the lease was dropped meanwhile"
            )
        guard.promote(self._service.vip, self._armed)
        self._armed = None

    async def drop(self) -> None:
        """End the lease; without a guard, put no bucket in force until `repair` restored it."""
        self._armed = None
        try:
            guard.end(self._service.vip)
        except DataplaneError:
            proc_file.empty(self._service.vip)

    async def owned(self) -> frozenset[int]:
        """Return the buckets in the proc file; DataplaneError when the rule is gone."""
        return proc_file.read(self._service.vip)

    async def kept(self) -> frozenset[int]:
        """Return no buckets: the target judges every packet by its bucket alone."""
        return NOTHING

    async def connections(self) -> Connections:
        """Return no connections: none can be kept."""
        return Connections(NOTHING, 0)

    async def counters(self) -> Counters | None:
        """Return what the guard passed on to the target, and what it refused."""
        with xtables.reading() as table:
            passed, refused = guard.counted(table, self._service.vip)
        return Counters(judged=passed, no_lease=refused)

    async def unpin(self, buckets: frozenset[int]) -> None:
        """Do nothing: no bucket is kept."""

    @property
    def early_drop(self) -> str:
        """See `Statistics.early_drop`."""
        return "off"

    def distrust(self) -> None:
        """See `Upkeep.distrust`; `repair` compares everything in any case."""

    async def disturbed(self) -> None:
        """Look once a second; return when something changed.

        That is: rule, guard, address or link is gone, or another program wrote to the proc file.
        """
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            try:
                await find_link_up(self._service.interface)
                if not await self._seems_whole():
                    return
            except DataplaneError:
                return

    async def _seems_whole(self) -> bool:
        vip = self._service.vip
        return (
            proc_file.read(vip) == self._in_force
            and guard.is_there(vip)
            and await address.is_held(vip)
        )

    async def repair(self) -> tuple[str, ...]:
        """Restore guard, rule, buckets in force and address, in that order."""
        vip = self._service.vip
        index = (await find_link_up(self._service.interface)).ifindex
        try:
            if proc_file.is_set_up(vip):
                self._require_our_settings()
            restored = self._complete_rules()
        except DataplaneError:
            await self._fall_silent()
            raise
        if proc_file.write(vip, self._in_force):
            restored.append(f"the owned buckets of {vip}")
        if await self._ensure_address(index):
            restored.append(f"the address {vip}")
        return tuple(restored)

    async def close(self) -> None:
        """End the lease, put no bucket in force, then remove our address and our rules.

        A rule made by hand stays, with no bucket in force, not even its own --local-node: another
        node answers in that bucket by now.
        """
        if not self._is_open:
            return
        await _remove_ours(self._service.vip)
        self._is_open = False
        if proc_file.is_set_up(self._service.vip):
            log.info(
                "the CLUSTERIP rule of %s that was set up by hand stays, with no bucket in force",
                self._service.vip,
            )

    async def _settle_rules(self) -> None:
        vip = self._service.vip
        if proc_file.is_set_up(vip):
            differences, is_ours = clusterip_rule.compare(self._service)
            if differences and not is_ours:
                raise DataplaneError(
                    f"using the CLUSTERIP rule of {vip} that is set up by hand: "
                    f"{', '.join(differences)}; change the rule or the settings"
                )
            if differences:
                log.info(
                    "replacing the rule that an earlier daemon left for %s: %s",
                    vip,
                    ", ".join(differences),
                )
                await remove_leftovers(vip)
        was_set_up = proc_file.is_set_up(vip)
        self._complete_rules()
        if not was_set_up:
            await address.warn_if_found(vip)

    def _complete_rules(self) -> list[str]:
        """Insert what is missing of rule and guard in one transaction, and name it.

        The lease ends before.
        """
        with xtables.reading() as table:
            missing = self._missing(table)
        if not any(missing):
            return []
        service, vip = self._service, self._service.vip
        self._armed = None
        guard.end_what_is_left(vip)
        with xtables.changing() as table:
            missing = self._missing(table)
            if missing.rule:
                clusterip_rule.insert(table, service)
            guard.put_first(table, service, self._lease_s)
        return [
            f"the {what} of {vip}"
            for what, is_missing in (("CLUSTERIP rule", missing.rule), ("guard", missing.guard))
            if is_missing
        ]

    def _missing(self, table: Any) -> _Missing:
        rule = not clusterip_rule.rules_of(table, self._service.vip)
        return _Missing(rule, not guard.is_in_place(table, self._service, self._lease_s))

    def _require_our_settings(self) -> None:
        """Raise DataplaneError when another program made the rule hash differently."""
        differences, _is_ours = clusterip_rule.compare(self._service)
        if differences:
            raise DataplaneError(
                f"another program changed the CLUSTERIP rule of {self._service.vip}: "
                f"{', '.join(differences)}; restore the rule"
            )

    async def _fall_silent(self) -> None:
        """Answer for nothing where rules cannot be restored.

        With the target, no bucket stays in force; without it, the address is removed.
        """
        if proc_file.is_set_up(self._service.vip):
            proc_file.empty(self._service.vip)
        else:
            await address.remove_ours(self._service.vip)

    async def _ensure_address(self, index: int) -> bool:
        """Add the VIP if this host lacks it; return whether it was added.

        The target judges packets, but the kernel accepts them only when the address is its own.
        """
        service = self._service
        if not await address.place(service.interface, index, service.vip):
            return False
        announcer_of(service).announce()
        return True
