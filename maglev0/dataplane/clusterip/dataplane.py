"""The dataplane of kernels before 6.3: the iptables target CLUSTERIP, one rule per VIP.

The kernel does the filtering, the ARP answers and the membership of the cluster MAC; `/proc/net/ipt_CLUSTERIP/<vip>` tells it which buckets
are in force here. A guard before the rule holds the lease. Kernel source: net/ipv4/netfilter/ipt_CLUSTERIP.c of Linux 6.2.

What is ours carries a mark in the kernel itself, so that a daemon started after a `kill -9` knows it from what an operator set up: the rules
a comment, the address a label.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from maglev0.core.service import HashFamily, Service
from maglev0.core.transition import Move
from maglev0.dataplane import rights
from maglev0.dataplane.clusterip import guard, xtables
from maglev0.dataplane.clusterip import rule as clusterip_rule
from maglev0.dataplane.host import address
from maglev0.dataplane.host.announcer import announcer_of
from maglev0.dataplane.host.link import find_link_up
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.protocol.ports.gate import Commit
from maglev0.protocol.ports.readings import Connections, Counters

log = logging.getLogger(__name__)

POLL_INTERVAL_S = (
    1.0  # legacy iptables announces no changes; a look costs about 1.5 ms, so 0.2 % of a core
)
NOTHING: frozenset[int] = frozenset()

# Not /proc/net: that leads to the namespace of the process's first thread, while netlink and iptables act in that of the calling thread.
_PROC_DIR = Path("/proc/thread-self/net/ipt_CLUSTERIP")
_WRITE_FAILURES = {  # by error number: what the target means by numbers that say something else elsewhere
    errno.ENOMEM: "the kernel holds that number already, or it is not one of the rule's total nodes",
    errno.ENOENT: "the kernel does not hold that number, or the rule is gone",
}


def is_set_up(vip: IPv4Address) -> bool:
    """Whether a CLUSTERIP rule for the VIP is in force in this network namespace, whoever inserted it."""
    return _proc_file(vip).exists()


def rule_by_hand(vip: IPv4Address) -> Service | None:
    """Return what an operator's rule for the VIP carries out, `None` where there is none: the settings that a cluster founded here must have."""
    if not is_set_up(vip):
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
    """Raise `UnavailableError` saying what keeps CLUSTERIP from serving on this machine, and what mends it. Changes no rule."""
    rights.require("clusterip")
    _check_modules()
    xtables.load_iptc()


def empty_unguarded(vip: IPv4Address) -> None:
    """Own nothing under a rule that no guard stands before, before anything else is known: one by hand, or of a version that had no guards."""
    if is_set_up(vip) and not guard.is_there(vip):
        _empty(vip)


async def remove_leftovers(vip: IPv4Address) -> None:
    """Remove what a killed daemon left for the VIP; a rule set up by hand stays, with no bucket in force.

    Every step is tried, whatever became of those before it; raises the first DataplaneError.
    """
    if is_set_up(vip) or guard.left_something(vip):
        await _remove_ours(vip)
    else:
        await address.remove_ours(vip)


async def _remove_ours(vip: IPv4Address) -> None:
    failures = _attempt(guard.end_what_is_left, vip)
    if is_set_up(vip):
        failures += _attempt(_empty, vip)
    try:
        await address.remove_ours(vip)
    except DataplaneError as error:
        failures.append(error)
    with xtables.changing() as table:
        clusterip_rule.delete_ours(table, vip)
        guard.delete(table, vip)
    if failures and is_set_up(vip):  # what failed in a rule that vanished meanwhile is done
        raise failures[0]


def _attempt(step: Callable[[IPv4Address], object], vip: IPv4Address) -> list[DataplaneError]:
    try:
        step(vip)
    except DataplaneError as error:
        return [error]
    return []


class _Missing(NamedTuple):
    """What of the rules is not there, or not as it should be."""

    rule: bool
    guard: bool


class ClusterIP:
    """The `Dataplane` of one service on the CLUSTERIP target. A bucket that moves breaks its connections: the kernel hashes every packet anew.

    `lease_ms` is the cluster's lease; the kernel counts whole seconds of it.
    """

    family = HashFamily.CLUSTERIP

    def __init__(self, service: Service, lease_ms: int) -> None:
        self._service = service
        self._lease_s = lease_ms // 1000
        self._move = Move(NOTHING, NOTHING)
        self._in_force = NOTHING  # what the kernel is to hold, until `flip` says otherwise
        self._armed: int | None = None  # the slot whose timer was started and not promoted yet
        self._is_open = False

    async def open(self) -> None:
        """Insert guard and rule unless they are there, then see to the address.

        A rule made by hand is used as it is and never removed; where it contradicts the service, `DataplaneError` names how.
        One of our own that does is replaced, its address taken down meanwhile if that is ours.
        The rule comes with no bucket in force, and before the address, so that nothing is accepted that is not ours.
        """
        check()
        if self._lease_s < 1:
            raise UnavailableError(
                "clusterip cannot hold the cluster's lease: the kernel counts its whole seconds, and it is shorter than one"
            )
        index = (await find_link_up(self._service.interface)).ifindex
        self._is_open = True
        await self._settle_rules()
        self._in_force = _read_in_force(self._service.vip)
        await self._ensure_address(index)

    async def stage(self, move: Move) -> None:
        """Remember the move: sixteen numbers need no preparation."""
        self._move = move

    async def commit(self, to: Commit) -> None:
        """Write each number's coming or going to the proc file."""
        vip = self._service.vip
        if to is Commit.RELEASE:
            self._in_force -= (
                self._move.losses
            )  # what is given up stays so, should the writing fail halfway and a repair follow
            _write_in_force(vip, _read_in_force(vip) - self._move.losses)
            return
        if not guard.is_there(vip):
            raise DataplaneError(f"taking buckets of {vip}: the guard rules are gone")
        _write_in_force(vip, _read_in_force(vip) | self._move.gains)
        self._in_force |= self._move.gains

    async def arm(self) -> None:
        """Start the timer that is not in force."""
        self._armed = guard.arm(self._service.vip)

    async def promote(self) -> None:
        """Put the started timer in force. DataplaneError where none was started, or `drop` or `repair` ended it."""
        if self._armed is None:
            raise DataplaneError(
                f"promoting the lease of {self._service.vip}: no armed timer, "
                "the lease was dropped meanwhile"
            )
        guard.promote(self._service.vip, self._armed)
        self._armed = None

    async def drop(self) -> None:
        """End the lease; without a guard, keep no bucket in force until `repair` has put it back."""
        self._armed = None
        try:
            guard.end(self._service.vip)
        except DataplaneError:
            _empty(self._service.vip)

    async def owned(self) -> frozenset[int]:
        """The node numbers in the proc file; `DataplaneError` if the rule is gone."""
        return _read_in_force(self._service.vip)

    async def kept(self) -> frozenset[int]:
        """None: the target judges every packet by its bucket alone."""
        return NOTHING

    async def connections(self) -> Connections:
        """None that could be kept."""
        return Connections(NOTHING, 0)

    async def counters(self) -> Counters | None:
        """What the guard passed on to the target, and what it refused."""
        with xtables.reading() as table:
            passed, refused = guard.counted(table, self._service.vip)
        return Counters(judged=passed, no_lease=refused)

    async def unpin(self, buckets: frozenset[int]) -> None:
        """Nothing is kept that could be forgotten."""

    @property
    def early_drop(self) -> str:
        """See `Statistics.early_drop`."""
        return "off"

    def distrust(self) -> None:
        """See `Upkeep.distrust`: `repair` compares everything anyway."""

    async def disturbed(self) -> None:
        """Look once a second, and return when rule, guard, address or link is gone or another hand wrote to the proc file."""
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
            _read_in_force(vip) == self._in_force
            and guard.is_there(vip)
            and await address.is_held(vip)
        )

    async def repair(self) -> tuple[str, ...]:
        """Restore guard, rule, owned buckets and address, in that order."""
        vip = self._service.vip
        index = (await find_link_up(self._service.interface)).ifindex
        try:
            if is_set_up(vip):
                self._require_our_settings()
            restored = self._complete_rules()
        except DataplaneError:
            await self._fall_silent()
            raise
        if _write_in_force(vip, self._in_force):
            restored.append(f"the owned buckets of {vip}")
        if await self._ensure_address(index):
            restored.append(f"the address {vip}")
        return tuple(restored)

    async def close(self) -> None:
        """End the lease, own nothing, then remove the address and the rules if they are ours.

        A rule made by hand stays, with no bucket in force: not even its own --local-node, for another node answers for that one by now.
        """
        if not self._is_open:
            return
        await _remove_ours(self._service.vip)
        self._is_open = False
        if is_set_up(self._service.vip):
            log.info(
                "the CLUSTERIP rule of %s that was set up by hand stays, with no node number in force",
                self._service.vip,
            )

    async def _settle_rules(self) -> None:
        vip = self._service.vip
        if is_set_up(vip):
            differences, is_ours = clusterip_rule.compare(self._service)
            if differences and not is_ours:
                raise DataplaneError(
                    f"using the CLUSTERIP rule of {vip} that is set up by hand: {', '.join(differences)}; change the rule or the settings"
                )
            if differences:
                log.info(
                    "the rule that an earlier daemon left for %s is replaced: %s",
                    vip,
                    ", ".join(differences),
                )
                await remove_leftovers(vip)
        was_set_up = is_set_up(vip)
        self._complete_rules()
        if not was_set_up:
            await address.warn_if_found(vip)

    def _complete_rules(self) -> list[str]:
        """Insert what is missing of rule and guard in one transaction, the lease ended before, and name it."""
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
        """Raise DataplaneError when a rule that was made anew meanwhile hashes otherwise than the rest of the cluster."""
        differences, _is_ours = clusterip_rule.compare(self._service)
        if differences:
            raise DataplaneError(
                f"the CLUSTERIP rule of {self._service.vip} was changed: {', '.join(differences)}; make it as it was"
            )

    async def _fall_silent(self) -> None:
        """Answer for nothing where rules cannot be restored: with the target by its numbers, without it by taking the address down."""
        if is_set_up(self._service.vip):
            _empty(self._service.vip)
        else:
            await address.remove_ours(self._service.vip)

    async def _ensure_address(self, index: int) -> bool:
        """Add the VIP if this host lacks it, and tell whether it did: the target judges packets, the kernel still has to hold them for its own."""
        service = self._service
        if not await address.place(service.interface, index, service.vip):
            return False
        announcer_of(service).announce()
        return True


def _proc_file(vip: IPv4Address) -> Path:
    return _PROC_DIR / str(vip)


def _read_in_force(vip: IPv4Address) -> frozenset[int]:
    path = _proc_file(vip)
    try:
        text = path.read_text("ascii")
    except FileNotFoundError as error:
        raise DataplaneError(
            f"reading the owned buckets of {vip}: the CLUSTERIP rule is gone"
        ) from error
    except OSError as error:
        raise DataplaneError(f"reading {path}: {error.strerror}") from error
    return frozenset(int(number) for number in text.strip().split(",") if number)


def _empty(vip: IPv4Address) -> None:
    _write_in_force(vip, NOTHING)


def _write_in_force(vip: IPv4Address, wanted: frozenset[int]) -> bool:
    """Write the differences, removals first: a bucket is nobody's for an instant rather than of two nodes. Tells whether there were any."""
    present = _read_in_force(vip)
    for operation in (
        *(f"-{bucket}" for bucket in sorted(present - wanted)),
        *(f"+{bucket}" for bucket in sorted(wanted - present)),
    ):
        _write_operation(vip, operation)
    return present != wanted


def _write_operation(vip: IPv4Address, operation: str) -> None:
    path = _proc_file(vip)
    try:
        with path.open(
            "r+b", buffering=0
        ) as file:  # unbuffered: the target takes one operation per write
            file.write(operation.encode("ascii"))
    except OSError as error:
        cause = _WRITE_FAILURES.get(error.errno or 0, error.strerror)
        raise DataplaneError(f"writing {operation} to {path}: {cause}") from error


def _check_modules() -> None:
    # A directory is there as soon as the module is, in every namespace; a container may see it without seeing the module's file.
    if _PROC_DIR.is_dir() and guard.LISTS_DIR.is_dir():
        return
    release = os.uname().release
    modules = _modules(release)
    if not _PROC_DIR.is_dir() and "ipt_CLUSTERIP" not in (modules or ()):
        raise UnavailableError(
            f"this kernel ({release}) has no module ipt_CLUSTERIP, which left Linux in 6.3: use --dataplane=nftables, or install the kernel's "
            "package of extra modules if it is older"
        )
    # Matches are loaded by the kernel itself when a rule asks for them, so a list that cannot be seen is no reason to refuse.
    if not guard.LISTS_DIR.is_dir() and modules is not None and "xt_recent" not in modules:
        raise UnavailableError(
            f"this kernel ({release}) has no module xt_recent, which holds clusterip's lease: install the kernel's package of extra modules"
        )


def _modules(release: str) -> frozenset[str] | None:
    """The names of the kernel's modules, loaded or not; `None` where they are hidden from this process."""
    found: set[str] = set()
    for index in ("modules.dep", "modules.builtin"):
        with contextlib.suppress(OSError):
            text = Path("/lib/modules", release, index).read_text("ascii", "replace")
            found |= {
                line.partition(":")[0].rpartition("/")[2].partition(".ko")[0]
                for line in text.splitlines()
            }
    return frozenset(found) or None
