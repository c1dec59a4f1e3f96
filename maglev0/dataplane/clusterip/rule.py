"""The CLUSTERIP rule in the legacy filter table.

The target's layout is that of include/uapi/linux/netfilter_ipv4/ipt_CLUSTERIP.h of Linux 6.2. A
rule that a daemon inserted bears a comment, by which a daemon started after a `kill -9` can tell it
from what an operator set up.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from maglev0.core.service import HashMode, Service
from maglev0.dataplane.clusterip import xtables
from maglev0.dataplane.clusterip.xtables import EXTENSION, MARK

_HASH_MODES = tuple(HashMode)  # in the order of the kernel's enum clusterip_hashmode
# struct ipt_clusterip_tgt_info: flags, MAC, total nodes, count of local nodes, local nodes, hash
# mode, initval; the pointer after these is the kernel's
_TARGET_INFO = struct.Struct("=I6sHH32s2xII")
_COUNT_OF_LOCAL_NODES = 12  # its offset in the target's data
_FLAG_NEW = 1
_SETTINGS = {
    "interface": "interface",
    "cluster_mac": "--clustermac",
    "total_nodes": "--total-nodes",
    "hash_mode": "--hashmode",
    "hash_seed": "--hash-init",
}


class ClusterIPRule(NamedTuple):
    """One CLUSTERIP rule of a VIP; `service` counts only where it `is_new`."""

    rule: xtables.Rule
    is_ours: bool
    is_new: bool
    service: Service


def insert(table: Any, service: Service) -> None:
    """Insert our rule first in INPUT, with no bucket in force."""
    table.insert_entry("INPUT", _rule_entry(service), 0)


def _rule_entry(service: Service) -> Any:
    """Build the rule as struct ipt_entry, without a local node.

    The iptables program insists on --local-node, and the kernel puts that bucket in force at once.
    The kernel itself accepts a rule without one, so no bucket of another node is ever in force. The
    number stays in its unused field, so that what iptables-save prints can be restored. The
    library's own `insert_rule` would refuse the rule; it also lets the extension print to a
    redirected stdout, where another thread's log line may get lost.
    """
    iptc = xtables.load_iptc()
    # Unless a rule names fewer, the library opens, and so creates, all five legacy tables,
    # including nat with its connection tracking.
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
    struct.pack_into(
        "=H", entry, rule.entry.target_offset + EXTENSION.size + _COUNT_OF_LOCAL_NODES, 0
    )
    return entry


def rules_of(table: Any, vip: IPv4Address) -> list[ClusterIPRule]:
    """Return the CLUSTERIP rules of the VIP, in all chains."""
    found = [
        decode(rule, vip) for chain in table.chains for rule in xtables.rules(table, chain.name)
    ]
    return [rule for rule in found if rule is not None]


def decode(rule: xtables.Rule, vip: IPv4Address) -> ClusterIPRule | None:
    """Read a rule; None when it is not a CLUSTERIP rule of the VIP."""
    if rule.target != "CLUSTERIP" or rule.raw[4:8] != vip.packed:
        return None
    flags, mac, total_nodes, _, _, hash_mode, hash_seed = _TARGET_INFO.unpack_from(
        rule.raw, rule.target_offset + EXTENSION.size
    )
    service = Service(
        vip,
        xtables.text(rule.raw[16:32]),
        mac.hex(":"),
        total_nodes,
        _HASH_MODES[hash_mode],
        hash_seed,
    )
    return ClusterIPRule(rule, _bears_our_mark(rule), bool(flags & _FLAG_NEW), service)


def _bears_our_mark(rule: xtables.Rule) -> bool:
    return any(
        match.name == "comment" and xtables.text(match.data) == MARK for match in rule.matches[:1]
    )


def compare(service: Service) -> tuple[list[str], bool]:
    """Return what in the rules of the VIP contradicts the service, and whether all rules are ours.

    Only rules with --new carry settings; others share those of the first.
    """
    with xtables.reading() as table:
        rules = rules_of(table, service.vip)
    settled = [rule for rule in rules if rule.is_new]
    if not settled:
        return [
            (
                f"the settings are unknown: no rule for {service.vip} in the legacy "
                "filter table has --new"
            )
        ], False
    compared = [
        (name, getattr(rule.service, field), getattr(service, field))
        for rule in settled
        for field, name in _SETTINGS.items()
    ]
    return [
        f"its {name} is {has}, not {asked}" for name, has, asked in compared if has != asked
    ], all(rule.is_ours for rule in rules)


def delete_ours(table: Any, vip: IPv4Address) -> None:
    """Delete the rules of the VIP that bear our mark."""
    for found in rules_of(table, vip):
        if found.is_ours:
            xtables.delete(table, found.rule)
