"""The nftables rules of one service, as text.

Pure: imports no I/O.

Two stages judge what arrives for the VIP on the traffic interface. They touch nothing else, and
nothing on lo.

- *early* comes before defragmentation (-400) and connection tracking (-200). Most of the cluster's
  traffic belongs to other nodes, so it is dropped here at the least cost: all that hashes to no
  *admitted* bucket. A bucket is admitted when it is in force, staged, or kept for its connections.
  Where ports are hashed, fragments pass, because only the first one has ports. ICMP errors pass,
  because they hash by the router that sent them. The early stage costs least at the interface's
  ingress (Linux 5.10 and later). There it would also judge packets of a VLAN or a bridge on the
  same interface, which are not ours: with such a device, and on older kernels, it is in prerouting.
- *second* comes after connection tracking and before DNAT (-100), which would hide the VIP. TCP's
  pure SYNs come first: a SYN that is sent again after its bucket moved is part of a connection
  here, and both nodes would answer it. The rest of TCP follows the connection. All other protocols
  follow the bucket, whatever connection tracking says: the old owner calls their flow established
  and the new owner calls it new.

A *new flow* is accepted when the lease runs and its bucket is in force. Both are looked up in one
of two slots, used in turn: the next state is prepared in the other slot, and put in force by
replacing the one element of a map.

Packets are counted where they are accepted and refused. A named counter outlives the rules that
name it. It adds one percent to the cost of accepting a packet, but four percent to the cost of
refusing one early, which is the most frequent case. So the early stage counts only if asked, and
by a counter of the rule itself: that costs half, and goes with the rule. The counter is not part
of the `fingerprint`, because it does not change what the buckets mean.

ARP for the VIP is spoken on the traffic interface only, with the cluster MAC. Otherwise another
interface in the same network would give its own MAC, and take all traffic where nothing judges it.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Address

from maglev0.core.ip_family import IpFamily
from maglev0.core.service import HashMode, Service

MAC_NOTE = "added_mac"
ADMITTED = "admitted"
# Each slot is a set and a chain of that name, which judges by the set.
OWNED = ("owned_a", "owned_b")
OWNED_BOTH = "owned_both"  # a chain only: what is in one slot and in the other
OWNED_SLOT = "owned_slot"  # a map from the VIP to one of these three
LEASES = ("lease_a", "lease_b")
LEASE_SLOT = "lease_slot"

# Named counters, by what became of the packets in the second stage.
NEW_FLOWS, ESTABLISHED, OTHER = ACCEPTED = ("new_flows", "established", "other")
NO_LEASE, NOT_OWNED, NOT_ESTABLISHED = REFUSED = ("no_lease", "not_owned", "not_established")

_CHAINS = (
    "early",
    "second",
    "judge",
    "judge_tcp",
    "judge_icmp",
    "new_flow",
    *LEASES,
    "leased",
    *OWNED,
    OWNED_BOTH,
)
_ARP_CHAINS = ("input", "output")
_WHOLE = "ip frag-off & 0x3fff == 0"  # no more fragments, and no offset
_ICMP_ERRORS = f"{{ {', '.join(IpFamily.V4.icmp_errors)} }}"
_PORT_FIELDS = {
    HashMode.SOURCE_IP_PORT: " . th sport",
    HashMode.SOURCE_IP_PORT_DEST_PORT: " . th sport . th dport",
}
_ACCEPT = "meta pkttype set host accept"  # the cluster MAC makes it a multicast, which TCP refuses
_NO_OWNER = f"counter name {NOT_OWNED} drop"
_NO_LEASE = f"counter name {NO_LEASE} drop"
_NO_CONNECTION = f"counter name {NOT_ESTABLISHED} drop"


class Hook(enum.Enum):
    """The hook of the early stage."""

    INGRESS = "ingress"
    PREROUTING = "prerouting"


def table_name(vip: IPv4Address) -> str:
    """Return the name of our tables for a VIP; one is of family inet, one of family arp."""
    return f"maglev0_{vip}"


def fingerprint(service: Service, hook: Hook) -> str:
    """Return what tells these rules from others.

    Under other rules, buckets that a killed daemon left mean something else.
    """
    return hashlib.blake2b(
        "\n".join(
            [
                *_declarations(service, hook),
                *_rules(service),
                *_hooks(service, hook, "", counted=False),
            ]
        ).encode(),
        digest_size=8,
    ).hexdigest()


def install(service: Service, hook: Hook, *, mac_added: bool, counted: bool = False) -> str:
    """Return commands that put the rules in force in tables that exist.

    Sets, maps and named counters keep their contents. `mac_added` says that the cluster MAC on the
    interface is ours to remove; an empty set keeps this note when the daemon is killed. `counted`
    makes the early stage count what it refuses.
    """
    return "\n".join(
        [
            prepare(service, hook, mac_added=mac_added),
            *_hooks(service, hook, fingerprint(service, hook), counted=counted),
        ]
    )


def prepare(service: Service, hook: Hook, *, mac_added: bool) -> str:
    """Return the same without the rules that lead to the others.

    Nothing is judged yet, but connection tracking begins.
    """
    name = table_name(service.vip)
    note = [f"add set inet {name} {MAC_NOTE} {{ type ether_addr; }}"] if mac_added else []
    flush = [f"flush chain inet {name} {chain}" for chain in _CHAINS] + [
        f"flush chain arp {name} {chain}" for chain in _ARP_CHAINS
    ]
    return "\n".join([*note, *_declarations(service, hook), *flush, *_rules(service)])


def clear(
    vip: IPv4Address, family: str, chains: Iterable[str], sets: Iterable[str], maps: Iterable[str]
) -> str:
    """Return commands that empty a table of other rules, for the transaction that fills it.

    A table that was deleted would come back without its flags.
    """
    where = f"{family} {table_name(vip)}"
    maps = tuple(maps)
    flush = [f"flush table {where}", *(f"flush map {where} {name}" for name in maps)]
    delete = [
        f"delete {kind} {where} {name}"
        for kind, names in (("map", maps), ("set", sets), ("chain", chains))
        for name in names
    ]
    return "\n".join([*flush, *delete, ""])


def probe(service: Service, hook: Hook) -> str:
    """Return commands that need no table, to find out whether a kernel accepts the rules."""
    name = table_name(service.vip)
    tables = f"add table inet {name}\nadd table arp {name}\n"
    return tables + install(service, hook, mac_added=True, counted=True)


def elements(service: Service, buckets: Iterable[int]) -> frozenset[int]:
    """Return what a set holds for these buckets.

    The kernel refuses a modulus of 1, so a single bucket is a hash of two values; both are owned or
    neither.
    """
    found = frozenset(buckets)
    return frozenset({1, 2}) if service.total_nodes == 1 and found else found


def buckets(service: Service, held: Iterable[int]) -> frozenset[int]:
    """Return the buckets for which a set holds these elements."""
    found = frozenset(held)
    return found & {1} if service.total_nodes == 1 else found


def _declarations(service: Service, hook: Hook) -> list[str]:
    name, modulus = table_name(service.vip), max(2, service.total_nodes)
    early = "prerouting" if hook is Hook.PREROUTING else f'ingress device "{service.interface}"'
    # A set of declared size shows all elements to a reading right after a writing; other sets are
    # still growing then.
    second = "{ type filter hook prerouting priority -150; policy accept; }"
    numbers = f"{{ typeof numgen inc mod {modulus}; size {modulus}; }}"
    return [
        *(f"add counter inet {name} {counter}" for counter in (*ACCEPTED, *REFUSED)),
        *(f"add set inet {name} {bucket_set} {numbers}" for bucket_set in (ADMITTED, *OWNED)),
        *(
            f"add set inet {name} {lease} {{ type {IpFamily.V4.nft_address}; flags timeout; }}"
            for lease in LEASES
        ),
        *(
            f"add map inet {name} {slot} {{ type {IpFamily.V4.nft_address} : verdict; }}"
            for slot in (OWNED_SLOT, LEASE_SLOT)
        ),
        f"add chain inet {name} early {{ type filter hook {early} priority -450; policy accept; }}",
        f"add chain inet {name} second {second}",
        *(
            f"add chain inet {name} {chain}"
            for chain in _CHAINS
            if chain not in ("early", "second")
        ),
        *(
            f"add chain arp {name} {way} {{ type filter hook {way} priority 0; policy accept; }}"
            for way in _ARP_CHAINS
        ),
    ]


def _hooks(service: Service, hook: Hook, comment: str, *, counted: bool) -> list[str]:
    name, judged = table_name(service.vip), f'iifname "{service.interface}" ip daddr {service.vip}'
    early = judged if hook is Hook.PREROUTING else f"ip daddr {service.vip}"
    refuse = "counter drop" if counted else "drop"
    return [
        *(
            f'add rule inet {name} early {early} {rule} {refuse} comment "{comment}"'
            for rule in _foreign(service)
        ),
        f"add rule inet {name} second {judged} goto judge",
    ]


def _foreign(service: Service) -> list[str]:
    """Return what the early stage drops: few tests, and one rule for each kind of packet.

    A rule costs more than a test. Fragments have their source address as whole packets do, so where
    only that is hashed they need no exception. ICMP's fragments do: only the first one shows
    whether it is an error.
    """
    ports = _PORT_FIELDS.get(service.hash_mode)
    errors = f"{_WHOLE} icmp type != {_ICMP_ERRORS}"
    if ports is None:
        kinds = {"ip protocol != icmp": "", errors: ""}
    else:
        kinds = {
            f"{_WHOLE} ip protocol {{ tcp, udp }}": ports,
            f"{_WHOLE} ip protocol != {{ tcp, udp, icmp }}": "",
            errors: "",
        }
    return [f"{kind} {_hashed(service, fields)} != @{ADMITTED}" for kind, fields in kinds.items()]


def _rules(service: Service) -> list[str]:
    name = table_name(service.vip)
    judges = {
        # One look at the protocol: a rule that does not match costs a packet nearly as much as one
        # that does.
        "judge": [
            "meta l4proto vmap { tcp : goto judge_tcp, icmp : goto judge_icmp }",
            "goto new_flow",
        ],
        "judge_tcp": [
            # ECN marks a SYN with more flags (RFC 3168, 6.1.1), so these are left out of the
            # comparison.
            "tcp flags & (fin | syn | rst | ack) == syn goto new_flow",
            f"ct state established,related counter name {ESTABLISHED} {_ACCEPT}",
            _NO_CONNECTION,
        ],
        "judge_icmp": [
            f"icmp type != {_ICMP_ERRORS} goto new_flow",
            f"ct state related counter name {ESTABLISHED} {_ACCEPT}",
            _NO_CONNECTION,
        ],
        "new_flow": [f"ip daddr vmap @{LEASE_SLOT}", _NO_LEASE],
        **{lease: [f"ip daddr @{lease} goto leased", _NO_LEASE] for lease in LEASES},
        "leased": [f"ip daddr vmap @{OWNED_SLOT}", _NO_OWNER],
        **{owned: [*_accepting(service, owned), _NO_OWNER] for owned in OWNED},
        OWNED_BOTH: [*_in_bucket(service, OWNED[0], f"goto {OWNED[1]}"), _NO_OWNER],
    }
    interface, sent = f'"{service.interface}"', f"arp saddr ip {service.vip}"
    cluster_mac = f"arp saddr ether set {service.cluster_mac}"
    return [
        f"add rule inet {name} {chain} {rule}" for chain, rules in judges.items() for rule in rules
    ] + [
        f"add rule arp {name} input iifname != {interface} arp daddr ip {service.vip} drop",
        f"add rule arp {name} output oifname != {interface} {sent} drop",
        f"add rule arp {name} output oifname {interface} {sent} {cluster_mac}",
    ]


def _accepting(service: Service, name: str) -> list[str]:
    """Return the rules that accept what hashes to a bucket in a set.

    Each kind of packet is hashed once, and counted by its kind.
    """
    ports = _PORT_FIELDS.get(service.hash_mode)
    if ports is None:
        kinds = [("tcp", "", NEW_FLOWS), ("!= tcp", "", OTHER)]
    else:
        kinds = [("tcp", ports, NEW_FLOWS), ("udp", ports, OTHER), ("!= { tcp, udp }", "", OTHER)]
    return [
        f"meta l4proto {kind} {_hashed(service, fields)} @{name} counter name {counter} {_ACCEPT}"
        for kind, fields, counter in kinds
    ]


def _in_bucket(service: Service, name: str, verdict: str) -> list[str]:
    """Return the rules for what hashes to a bucket in a set.

    Protocols without ports hash by source address only, in every mode.
    """
    ports = _PORT_FIELDS.get(service.hash_mode)
    if ports is None:
        return [f"{_hashed(service)} @{name} {verdict}"]
    return [
        f"meta l4proto {{ tcp, udp }} {_hashed(service, ports)} @{name} {verdict}",
        f"meta l4proto != {{ tcp, udp }} {_hashed(service)} @{name} {verdict}",
    ]


def _hashed(service: Service, ports: str = "") -> str:
    modulus = max(2, service.total_nodes)
    return f"jhash ip saddr{ports} mod {modulus} seed {service.hash_seed:#x} offset 1"
