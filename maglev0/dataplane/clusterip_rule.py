"""The CLUSTERIP rule in the legacy filter table, by python-iptables.

The rule's layout is that of include/uapi/linux/netfilter_ipv4/ip_tables.h and ipt_CLUSTERIP.h of Linux 6.2. One that we inserted bears a
comment, by which a daemon started after a `kill -9` knows it from what an operator set up.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from maglev0.errors import DataplaneError, UnavailableError
from maglev0.service import HashMode, Service

MARK = "maglev0"  # the comment of a rule that we inserted
LOCK_TRIES = 25  # iptables programs hold the lock for milliseconds; the daemon's loop stands still meanwhile, so wait a quarter of a second at most
LOCK_RETRY_S = 0.01

_HASH_MODES = tuple(HashMode)  # in the order of the kernel's enum clusterip_hashmode
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


class Rule(NamedTuple):
    """One CLUSTERIP rule of a VIP: `raw` is its struct ipt_entry with all that follows; `service` counts only where it `is_new`."""

    chain: str
    raw: bytes
    is_ours: bool
    is_new: bool
    service: Service


def load_iptc() -> Any:
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
def filter_table() -> Iterator[Any]:
    """The legacy filter table of this thread's namespace, read afresh; what is changed counts from its `commit()`.

    python-iptables keeps one object per table name, whose handle belongs to the namespace of its last refresh.
    """
    iptc = load_iptc()
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


def insert(service: Service) -> None:
    """Put our rule first in INPUT, with no bucket in force."""
    with filter_table() as table:
        table.insert_entry("INPUT", _rule_entry(service), 0)
        table.commit()


def _rule_entry(service: Service) -> Any:
    """The rule as struct ipt_entry, without a local node.

    The iptables program insists on --local-node, and the kernel puts it in force at once. The kernel itself takes a rule with none, so there is
    no instant in which a bucket is in force that is another node's. The number stays in its unused place, so that what iptables-save prints can
    be restored. The library's own `insert_rule` would refuse it, and has the extension print to a redirected stdout, where it may swallow
    another thread's log line.
    """
    iptc = load_iptc()
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


def _delete(table: Any, rule: Rule) -> None:
    entry = (ctypes.c_ubyte * len(rule.raw)).from_buffer_copy(rule.raw)
    every_bit = (ctypes.c_ubyte * len(rule.raw)).from_buffer_copy(b"\xff" * len(rule.raw))
    table.delete_entry(rule.chain, entry, every_bit)


def rules_of(table: Any, vip: IPv4Address) -> list[Rule]:
    """The CLUSTERIP rules of the VIP, in all chains; other rules are passed over undecoded, so that none of them can stop us."""
    rules = []
    for chain in table.chains:
        entry = table.first_rule(chain.name)
        while entry:
            raw = ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
            rules += _decode(chain.name, raw, vip)
            entry = table.next_rule(entry)
    return rules


def _decode(chain: str, raw: bytes, vip: IPv4Address) -> list[Rule]:
    """The rule in `raw`, laid out as in include/uapi/linux/netfilter_ipv4/ip_tables.h, if it is a CLUSTERIP rule of the VIP."""
    (target_offset,) = struct.unpack_from("=H", raw, 88)
    _, target_name = _EXTENSION.unpack_from(raw, target_offset)
    if _text(target_name) != "CLUSTERIP" or raw[4:8] != vip.packed:
        return []
    flags, mac, total_nodes, _, _, hash_mode, hash_seed = _TARGET_INFO.unpack_from(raw, target_offset + _EXTENSION.size)
    _, first_match = _EXTENSION.unpack_from(raw, _ENTRY_SIZE)
    is_ours = _text(first_match) == "comment" and _text(raw[_ENTRY_SIZE + _EXTENSION.size : target_offset]) == MARK
    service = Service(vip, _text(raw[16:32]), mac.hex(":"), total_nodes, _HASH_MODES[hash_mode], hash_seed)
    return [Rule(chain, raw, is_ours, bool(flags & _FLAG_NEW), service)]


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


def compare(service: Service) -> tuple[list[str], bool]:
    """What in the rules of the VIP contradicts the service, in words, and whether they are all ours.

    Only rules with --new carry settings; others share those of the first.
    """
    with filter_table() as table:
        rules = rules_of(table, service.vip)
    settled = [rule for rule in rules if rule.is_new]
    if not settled:
        return [f"no rule for {service.vip} with --new is in the legacy filter table, so its settings cannot be told"], False
    compared = [(name, getattr(rule.service, field), getattr(service, field)) for rule in settled for field, name in _SETTINGS.items()]
    return [f"its {name} is {has}, not {asked}" for name, has, asked in compared if has != asked], all(rule.is_ours for rule in rules)


def delete_ours(vip: IPv4Address) -> None:
    """Delete the rules of the VIP that bear our mark."""
    with filter_table() as table:
        for rule in rules_of(table, vip):
            if rule.is_ours:
                _delete(table, rule)
        table.commit()
