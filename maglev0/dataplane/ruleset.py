"""The nftables rules of one service, as text.

Pure: imports no I/O.

Two stages judge what arrives for the VIP on the traffic interface; nothing else is touched, lo in particular.

- *early*, before defragmentation (-400) and connection tracking (-200): most of the cluster's traffic is other nodes', and is dropped here
  at the least cost. Fragments pass, for only the first one has ports; ICMP errors pass, for they hash by the router that sent them.
- *second*, behind connection tracking and before DNAT (-100), which would hide the VIP: judges reassembled datagrams by their bucket, and
  ICMP errors by whether they belong to a connection of this node.

ARP for the VIP is spoken on the traffic interface alone, with the cluster MAC: an interface beside it in the same network would else give
its own MAC away, and take all the traffic where nothing judges it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

from maglev0.dataplane import Change
from maglev0.service import HashMode, Service

MAC_NOTE = "added_mac"
OWNED_SET = "owned"
MAX_TRANSACTION = 1 << 15  # elements: 0.1 s and 10 MB in libnftables; a third of the recommended 65,537 stays one transaction

_ICMP_ERRORS = "{ destination-unreachable, redirect, time-exceeded, parameter-problem }"
_PORT_FIELDS = {HashMode.SOURCE_IP_PORT: " . th sport", HashMode.SOURCE_IP_PORT_DEST_PORT: " . th sport . th dport"}


def table_name(vip: IPv4Address) -> str:
    """The name of our tables for a VIP; one in family ip, one in family arp."""
    return f"maglev0_{vip}"


def fingerprint(service: Service) -> str:
    """What tells these very rules from others: owned buckets that a killed daemon left mean nothing under other ones."""
    return hashlib.blake2b((_declarations(service) + _rules(service)).encode(), digest_size=8).hexdigest()


def install(service: Service, *, mac_added: bool) -> str:
    """Commands that put the rules in force whatever stands there, and keep the owned buckets where the set exists.

    `mac_added` says that the cluster MAC on the interface is ours to remove; an empty set remembers that across a killed daemon.
    """
    note = f"  set {MAC_NOTE} {{ type ether_addr; }}\n" if mac_added else ""
    return f"""
table ip {table_name(service.vip)} {{
  comment "{fingerprint(service)}"
{note}}}
{_declarations(service)}
{_flush(service)}
{_rules(service)}
"""


def _declarations(service: Service) -> str:
    name, modulus = table_name(service.vip), max(2, service.total_nodes)
    # Of declared size the set is one that a reading right behind a writing shows whole; others are still growing then.
    return f"""
table ip {name} {{
  set {OWNED_SET} {{ typeof numgen inc mod {modulus}; size {modulus}; }}
  chain early {{ type filter hook prerouting priority -450; policy accept; }}
  chain early_judge {{
  }}
  chain second {{ type filter hook prerouting priority -150; policy accept; }}
  chain second_judge {{
  }}
}}
table arp {name} {{
  chain input {{ type filter hook input priority 0; policy accept; }}
  chain output {{ type filter hook output priority 0; policy accept; }}
}}"""


def _flush(service: Service) -> str:
    chains = ("ip {} early", "ip {} early_judge", "ip {} second", "ip {} second_judge", "arp {} input", "arp {} output")
    return "\n".join(f"flush chain {chain.format(table_name(service.vip))}" for chain in chains)


def _rules(service: Service) -> str:
    name = table_name(service.vip)
    return f"""
table ip {name} {{
  chain early {{
    iifname "{service.interface}" ip daddr {service.vip} goto early_judge
  }}
  chain early_judge {{
    ip frag-off & 0x3fff != 0 accept
    icmp type {_ICMP_ERRORS} accept
{_accept_owned(service, "accept")}
    drop
  }}
  chain second {{
    iifname "{service.interface}" ip daddr {service.vip} goto second_judge
  }}
  chain second_judge {{
    icmp type {_ICMP_ERRORS} ct state related meta pkttype set host accept
    icmp type {_ICMP_ERRORS} drop
{_accept_owned(service, "meta pkttype set host accept")}
    drop
  }}
}}
table arp {name} {{
  chain input {{
    iifname != "{service.interface}" arp daddr ip {service.vip} drop
  }}
  chain output {{
    oifname != "{service.interface}" arp saddr ip {service.vip} drop
    oifname "{service.interface}" arp saddr ip {service.vip} arp saddr ether set {service.cluster_mac}
  }}
}}"""


def remove(vip: IPv4Address) -> str:
    """Commands that remove our tables, whether or not they are there."""
    name = table_name(vip)
    return "\n".join(f"add table {family} {name}\ndelete table {family} {name}" for family in ("ip", "arp"))


def in_pieces(change: Change) -> Iterator[Change]:
    """Split a change of elements into transactions: one, unless it is too large for the netlink socket and the loop's patience.

    Removals come first, so that what is split never leaves a bucket in force longer than one transaction would.
    """
    if len(change.added) + len(change.removed) <= MAX_TRANSACTION:
        yield change
        return
    for removed in _slices(change.removed):
        yield Change(frozenset(), removed)
    for added in _slices(change.added):
        yield Change(added, frozenset())


def commands(service: Service, change: Change) -> str:
    """Commands that take elements out of the owned set and put others in, as one transaction; empty when there is nothing to do."""
    where = f"element ip {table_name(service.vip)} {OWNED_SET}"
    parts = (("delete", change.removed), ("add", change.added))
    return "\n".join(f"{verb} {where} {{ {','.join(map(str, sorted(numbers)))} }}" for verb, numbers in parts if numbers)


def elements(service: Service, buckets: Iterable[int]) -> frozenset[int]:
    """What the owned set holds for these buckets.

    A modulus of 1 is refused by the kernel, so a single bucket is a hash of two values, and both are owned or neither.
    """
    found = frozenset(buckets)
    return frozenset({1, 2}) if service.total_nodes == 1 and found else found


def buckets(service: Service, held: Iterable[int]) -> frozenset[int]:
    """The buckets for which the owned set holds these elements."""
    found = frozenset(held)
    return found & {1} if service.total_nodes == 1 else found


def _slices(numbers: frozenset[int]) -> Iterator[frozenset[int]]:
    ordered = sorted(numbers)
    for start in range(0, len(ordered), MAX_TRANSACTION):
        yield frozenset(ordered[start : start + MAX_TRANSACTION])


def _accept_owned(service: Service, verdict: str) -> str:
    """The rules that accept what hashes to an owned bucket. Protocols without ports hash by source address alone, in every mode."""
    modulus = f"mod {max(2, service.total_nodes)} seed {service.hash_seed:#x} offset 1 @{OWNED_SET} {verdict}"
    ports = _PORT_FIELDS.get(service.hash_mode)
    if ports is None:
        return f"    jhash ip saddr {modulus}"
    return f"    meta l4proto {{ tcp, udp }} jhash ip saddr{ports} {modulus}\n    meta l4proto != {{ tcp, udp }} jhash ip saddr {modulus}"
