"""The dataplane of kernels before 6.3: the iptables target CLUSTERIP, one rule per VIP.

The kernel does the filtering, the ARP answers and the membership of the cluster MAC; `/proc/net/ipt_CLUSTERIP/<vip>` tells it which buckets
are in force here. Kernel source: net/ipv4/netfilter/ipt_CLUSTERIP.c of Linux 6.2.

What is ours carries a mark in the kernel itself, so that a daemon started after a `kill -9` knows it from what an operator set up: the rule
a comment, the address a label.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from ipaddress import IPv4Address
from pathlib import Path

from maglev0.dataplane import Change, clusterip_rule, host, rights
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.service import HashFamily, Service

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 1.0  # legacy iptables announces no changes; a look costs about 1.5 ms, so 0.2 % of a core

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
    with clusterip_rule.filter_table() as table:
        return next((rule.service for rule in clusterip_rule.rules_of(table, vip) if rule.is_new and not rule.is_ours), None)


def check() -> None:
    """Raise `UnavailableError` saying what keeps CLUSTERIP from serving on this machine, and what mends it. Changes no rule."""
    rights.require("clusterip")
    _check_module()
    clusterip_rule.load_iptc()


def let_go(vip: IPv4Address) -> None:
    """Own nothing of what a killed daemon, or a rule by hand, put in force for the VIP, before anything else is known."""
    if is_set_up(vip):
        _write_owned(vip, frozenset())


async def remove_leftovers(vip: IPv4Address) -> None:
    """Remove what a killed daemon left for the VIP; a rule set up by hand stays, with no bucket in force.

    Every step is tried, whatever became of those before it; raises the first DataplaneError.
    """
    failures: list[DataplaneError] = []
    try:
        let_go(vip)
    except DataplaneError as error:
        failures.append(error)
    try:
        await host.remove_our_address(vip)
    except DataplaneError as error:
        failures.append(error)
    if is_set_up(vip):
        clusterip_rule.delete_ours(vip)
    if failures and is_set_up(vip):  # what failed in a rule that vanished meanwhile is done
        raise failures[0]


class ClusterIP:
    """The `Dataplane` of one service on the CLUSTERIP target. A bucket that moves breaks its connections: the kernel hashes every packet anew."""

    family = HashFamily.CLUSTERIP

    def __init__(self, service: Service) -> None:
        self._service = service
        self._desired: frozenset[int] = frozenset()
        self._is_open = False

    async def open(self) -> None:
        """Insert the rule unless there is one, then see to the address.

        A rule made by hand is used as it is and never removed; where it contradicts the service, `DataplaneError` names how.
        One of our own that does is replaced, its address taken down meanwhile if that is ours.
        The rule comes with no bucket in force, and before the address, so that nothing is accepted that is not ours.
        """
        check()
        index = await host.serving_link(self._service.interface)
        self._is_open = True
        await self._settle_rule()
        self._desired = _read_owned(self._service.vip)
        await self._ensure_address(index)

    async def apply(self, owned: frozenset[int]) -> Change:
        """Write the differences to the proc file, removals first: a bucket is nobody's for an instant rather than of two nodes."""
        self._desired &= owned  # what is given up stays so, should the writing fail halfway and a repair follow
        change = _write_owned(self._service.vip, owned)
        self._desired = owned
        return change

    async def owned(self) -> frozenset[int]:
        """The node numbers in the proc file; `DataplaneError` if the rule is gone."""
        return _read_owned(self._service.vip)

    async def disturbed(self) -> None:
        """Look once a second, and return when the rule, the address or the link is gone or another hand wrote to the proc file."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            try:
                await host.serving_link(self._service.interface)
                if _read_owned(self._service.vip) != self._desired or not await host.has_address(self._service.vip):
                    return
            except DataplaneError:
                return

    async def repair(self) -> tuple[str, ...]:
        """Restore rule, owned buckets and address, in that order."""
        vip = self._service.vip
        index = await host.serving_link(self._service.interface)
        restored = []
        if is_set_up(vip):
            self._require_our_settings()
        else:
            await self._insert_rule_again()
            restored.append(f"the CLUSTERIP rule of {vip}")
        if any(_write_owned(vip, self._desired)):
            restored.append(f"the owned buckets of {vip}")
        if await self._ensure_address(index):
            restored.append(f"the address {vip}")
        return tuple(restored)

    async def close(self) -> None:
        """Own nothing, then remove the address and the rule if they are ours.

        A rule made by hand stays, with no bucket in force: not even its own --local-node, for another node answers for that one by now.
        """
        if not self._is_open:
            return
        await remove_leftovers(self._service.vip)
        self._is_open = False
        if is_set_up(self._service.vip):
            log.info("the CLUSTERIP rule of %s that was set up by hand stays, with no node number in force", self._service.vip)

    async def _settle_rule(self) -> None:
        vip = self._service.vip
        if is_set_up(vip):
            differences, is_ours = clusterip_rule.compare(self._service)
            if not differences:
                return
            if not is_ours:
                raise DataplaneError(
                    f"using the CLUSTERIP rule of {vip} that is set up by hand: {', '.join(differences)}; change the rule or the settings"
                )
            log.info("the rule that an earlier daemon left for %s is replaced: %s", vip, ", ".join(differences))
            await remove_leftovers(vip)
        clusterip_rule.insert(self._service)
        await host.warn_of_found_address(vip)

    def _require_our_settings(self) -> None:
        """Raise DataplaneError when a rule that was made anew meanwhile hashes otherwise than the rest of the cluster."""
        differences, _is_ours = clusterip_rule.compare(self._service)
        if differences:
            raise DataplaneError(f"the CLUSTERIP rule of {self._service.vip} was changed: {', '.join(differences)}; make it as it was")

    async def _insert_rule_again(self) -> None:
        try:
            clusterip_rule.insert(self._service)
        except DataplaneError:
            # Without the rule this node would answer for every bucket; without the address it answers for none.
            await host.remove_our_address(self._service.vip)
            raise

    async def _ensure_address(self, index: int) -> bool:
        """Add the VIP if this host lacks it, and tell whether it did: the target judges packets, the kernel still has to hold them for its own."""
        service = self._service
        if not await host.place_address(service.interface, index, service.vip):
            return False
        host.announce(service.interface, service.vip, service.cluster_mac)
        return True


def _proc_file(vip: IPv4Address) -> Path:
    return _PROC_DIR / str(vip)


def _read_owned(vip: IPv4Address) -> frozenset[int]:
    path = _proc_file(vip)
    try:
        text = path.read_text("ascii")
    except FileNotFoundError as error:
        raise DataplaneError(f"reading the owned buckets of {vip}: the CLUSTERIP rule is gone") from error
    except OSError as error:
        raise DataplaneError(f"reading {path}: {error.strerror}") from error
    return frozenset(int(number) for number in text.strip().split(",") if number)


def _write_owned(vip: IPv4Address, owned: frozenset[int]) -> Change:
    present = _read_owned(vip)
    change = Change(added=owned - present, removed=present - owned)
    for operation in (*(f"-{bucket}" for bucket in sorted(change.removed)), *(f"+{bucket}" for bucket in sorted(change.added))):
        _write_operation(vip, operation)
    return change


def _write_operation(vip: IPv4Address, operation: str) -> None:
    path = _proc_file(vip)
    try:
        with path.open("r+b", buffering=0) as file:  # unbuffered: the target takes one operation per write
            file.write(operation.encode("ascii"))
    except OSError as error:
        cause = _WRITE_FAILURES.get(error.errno or 0, error.strerror)
        raise DataplaneError(f"writing {operation} to {path}: {cause}") from error


def _check_module() -> None:
    # The directory is there as soon as the module is, in every namespace; a container may see it without seeing the module's file.
    if _PROC_DIR.is_dir():
        return
    release = os.uname().release
    for index in ("modules.dep", "modules.builtin"):
        with contextlib.suppress(OSError):
            if "/ipt_CLUSTERIP.ko" in Path("/lib/modules", release, index).read_text("ascii", "replace"):
                return
    raise UnavailableError(
        f"this kernel ({release}) has no module ipt_CLUSTERIP, which left Linux in 6.3: use --dataplane=nftables, or install the kernel's "
        "package of extra modules if it is older"
    )
