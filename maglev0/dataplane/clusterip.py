"""The dataplane of kernels before 6.3: the iptables target CLUSTERIP, one rule per VIP.

The kernel does the filtering, the ARP answers and the membership of the cluster MAC; `/proc/net/ipt_CLUSTERIP/<vip>` tells it which buckets
are in force here. Kernel source: net/ipv4/netfilter/ipt_CLUSTERIP.c of Linux 6.2.

What is ours carries a mark in the kernel itself, so that a daemon started after a `kill -9` knows it from what an operator set up: the rule
a comment, the address a label.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from maglev0.dataplane import Change, host, rights
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.service import HashFamily, HashMode, Service

log = logging.getLogger(__name__)

MARK = "maglev0"  # the comment of a rule that we inserted
POLL_INTERVAL_S = 1.0  # legacy iptables announces no changes; a look costs about 1.5 ms, so 0.2 % of a core
LOCK_TRIES = 100  # iptables programs hold the lock for milliseconds; the daemon's loop stands still meanwhile, so wait a second at most
LOCK_RETRY_S = 0.01

# Not /proc/net: that leads to the namespace of the process's first thread, while netlink and iptables act in that of the calling thread.
_PROC_DIR = Path("/proc/thread-self/net/ipt_CLUSTERIP")
_HASH_MODES = tuple(HashMode)  # in the order of the kernel's enum clusterip_hashmode
_WRITE_FAILURES = {  # by error number: what the target means by numbers that say something else elsewhere
    errno.ENOMEM: "the kernel holds that number already, or it is not one of the rule's total nodes",
    errno.ENOENT: "the kernel does not hold that number, or the rule is gone",
}

# struct ipt_clusterip_tgt_info: flags, MAC, total nodes, count of local nodes, local nodes, hash mode, initval; the pointer behind is the kernel's
_TARGET_INFO = struct.Struct("=I6sHH32s2xII")
_COUNT_OF_LOCAL_NODES = 12  # its offset therein
_FLAG_NEW = 1
_SETTINGS = {
    "interface": "interface",
    "cluster_mac": "--clustermac",
    "total_nodes": "--total-nodes",
    "hash_mode": "--hashmode",
    "hash_seed": "--hash-init",
}
_ENTRY_SIZE = 112  # struct ipt_entry; matches and target follow
_EXTENSION = struct.Struct("=H29sx")  # head of a match or target: size, name, revision


def is_set_up(vip: IPv4Address) -> bool:
    """Whether a CLUSTERIP rule for the VIP is in force in this network namespace, whoever inserted it."""
    return _proc_file(vip).exists()


def rule_by_hand(vip: IPv4Address) -> Service | None:
    """Return what an operator's rule for the VIP carries out, `None` where there is none: the settings that a cluster founded here must have."""
    if not is_set_up(vip):
        return None
    with _filter_table() as table:
        return next((rule.service for rule in _rules_of(table, vip) if rule.is_new and not rule.is_ours), None)


def check() -> None:
    """Raise `UnavailableError` saying what keeps CLUSTERIP from serving on this machine, and what mends it. Changes no rule."""
    rights.require("clusterip")
    _check_module()
    _load_iptc()


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
        _delete_our_rules(vip)
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
            differences, is_ours = _compare(self._service)
            if not differences:
                return
            if not is_ours:
                raise DataplaneError(
                    f"using the CLUSTERIP rule of {vip} that is set up by hand: {', '.join(differences)}; change the rule or the settings"
                )
            log.info("the rule that an earlier daemon left for %s is replaced: %s", vip, ", ".join(differences))
            await remove_leftovers(vip)
        _insert_rule(self._service)
        await host.warn_of_found_address(vip)

    def _require_our_settings(self) -> None:
        """Raise DataplaneError when a rule that was made anew meanwhile hashes otherwise than the rest of the cluster."""
        differences, _is_ours = _compare(self._service)
        if differences:
            raise DataplaneError(f"the CLUSTERIP rule of {self._service.vip} was changed: {', '.join(differences)}; make it as it was")

    async def _insert_rule_again(self) -> None:
        try:
            _insert_rule(self._service)
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


def _delete_our_rules(vip: IPv4Address) -> None:
    with _filter_table() as table:
        for rule in _rules_of(table, vip):
            if rule.is_ours:
                _delete_rule(table, rule)
        table.commit()


class _Rule(NamedTuple):
    """One CLUSTERIP rule of a VIP: `raw` is its struct ipt_entry with all that follows; `service` counts only where it `is_new`."""

    chain: str
    raw: bytes
    is_ours: bool
    is_new: bool
    service: Service


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


def _load_iptc() -> Any:
    """Import python-iptables only where it is used: it loads C libraries, and 14 MB, at import."""
    try:
        import iptc  # noqa: PLC0415
    except (ImportError, OSError, AttributeError, TypeError) as error:  # the last two: what it stumbles over where a library is not found
        raise UnavailableError(f"clusterip needs python-iptables and the libraries of legacy iptables: apt install iptables ({error})") from error
    return iptc


@contextlib.contextmanager
def _xtables_lock() -> Iterator[None]:
    """Hold the lock of the iptables programs: each change rewrites the whole table, and would undo theirs made meanwhile."""
    path = os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock")
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)) as lock:
        for _ in range(LOCK_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(LOCK_RETRY_S)
        else:
            raise DataplaneError(f"another program keeps {path} locked: fuser -v {path} names it")
        yield


@contextlib.contextmanager
def _filter_table() -> Iterator[Any]:
    """The legacy filter table of this thread's namespace, read afresh; what is changed counts from its `commit()`.

    python-iptables keeps one object per table name, whose handle belongs to the namespace of its last refresh.
    """
    iptc = _load_iptc()
    try:
        with _xtables_lock():
            table = iptc.Table(iptc.Table.FILTER, autocommit=False)
            table.refresh()
            try:
                yield table
            finally:
                table.close()
    except (iptc.IPTCError, iptc.XTablesError, OSError) as error:
        raise DataplaneError(f"changing the legacy iptables rules: {error}") from error


def _insert_rule(service: Service) -> None:
    """Put our rule first in INPUT, with no bucket in force."""
    with _filter_table() as table:
        table.insert_entry("INPUT", _rule_entry(service), 0)
        table.commit()


def _rule_entry(service: Service) -> Any:
    """The rule as struct ipt_entry, without a local node.

    The iptables program insists on --local-node, and the kernel puts it in force at once. The kernel itself takes a rule with none, so there is
    no instant in which a bucket is in force that is another node's. The number stays in its unused place, so that what iptables-save prints can
    be restored. The library's own `insert_rule` would refuse it, and has the extension print to a redirected stdout, where it may swallow
    another thread's log line.
    """
    iptc = _load_iptc()
    # The library opens, and so creates, all five legacy tables (nat with its connection tracking too) unless a rule names fewer.
    rule = type("FilterRule", (iptc.Rule,), {"tables": ()})()
    rule.dst = f"{service.vip}/32"
    rule.in_interface = service.interface
    rule.create_match("comment").set_parameter("comment", MARK)
    target = rule.create_target("CLUSTERIP")
    target.set_parameter("new")
    target.set_parameter("hashmode", service.hash_mode.value)
    target.set_parameter("clustermac", service.cluster_mac)
    target.set_parameter("total-nodes", str(service.total_nodes))
    target.set_parameter("local-node", "1")
    target.set_parameter("hash-init", str(service.hash_seed))
    entry = rule.rule
    struct.pack_into("=H", entry, rule.entry.target_offset + _EXTENSION.size + _COUNT_OF_LOCAL_NODES, 0)
    return entry


def _delete_rule(table: Any, rule: _Rule) -> None:
    entry = (ctypes.c_ubyte * len(rule.raw)).from_buffer_copy(rule.raw)
    every_bit = (ctypes.c_ubyte * len(rule.raw)).from_buffer_copy(b"\xff" * len(rule.raw))
    table.delete_entry(rule.chain, entry, every_bit)


def _rules_of(table: Any, vip: IPv4Address) -> list[_Rule]:
    """The CLUSTERIP rules of the VIP, in all chains; other rules are passed over undecoded, so that none of them can stop us."""
    rules = []
    for chain in table.chains:
        entry = table.first_rule(chain.name)
        while entry:
            raw = ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
            rules += _decode(chain.name, raw, vip)
            entry = table.next_rule(entry)
    return rules


def _decode(chain: str, raw: bytes, vip: IPv4Address) -> list[_Rule]:
    """The rule in `raw`, laid out as in include/uapi/linux/netfilter_ipv4/ip_tables.h, if it is a CLUSTERIP rule of the VIP."""
    (target_offset,) = struct.unpack_from("=H", raw, 88)
    _, target_name = _EXTENSION.unpack_from(raw, target_offset)
    if _text(target_name) != "CLUSTERIP" or raw[4:8] != vip.packed:
        return []
    flags, mac, total_nodes, _, _, hash_mode, hash_seed = _TARGET_INFO.unpack_from(raw, target_offset + _EXTENSION.size)
    _, first_match = _EXTENSION.unpack_from(raw, _ENTRY_SIZE)
    is_ours = _text(first_match) == "comment" and _text(raw[_ENTRY_SIZE + _EXTENSION.size : target_offset]) == MARK
    service = Service(vip, _text(raw[16:32]), mac.hex(":"), total_nodes, _HASH_MODES[hash_mode], hash_seed)
    return [_Rule(chain, raw, is_ours, bool(flags & _FLAG_NEW), service)]


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


def _compare(service: Service) -> tuple[list[str], bool]:
    """What in the rules of the VIP contradicts the service, in words, and whether they are all ours.

    Only rules with --new carry settings; others share those of the first.
    """
    with _filter_table() as table:
        rules = _rules_of(table, service.vip)
    settled = [rule for rule in rules if rule.is_new]
    if not settled:
        return [f"no rule for {service.vip} with --new is in the legacy filter table, so its settings cannot be told"], False
    compared = [(name, getattr(rule.service, field), getattr(service, field)) for rule in settled for field, name in _SETTINGS.items()]
    return [f"its {name} is {has}, not {asked}" for name, has, asked in compared if has != asked], all(rule.is_ours for rule in rules)
