"""Reads what a kernel has in force for a VIP by our nftables rules, whichever process serves it.

Changes nothing.
"""

from __future__ import annotations

import socket
from collections import Counter
from ipaddress import IPv4Address
from typing import NamedTuple

from maglev0.core.service import Service
from maglev0.core.settings import Settings
from maglev0.dataplane import rights
from maglev0.dataplane.host import address
from maglev0.dataplane.host.link import find_link
from maglev0.dataplane.netlink.message import attributes, text
from maglev0.dataplane.nftables import ruleset
from maglev0.dataplane.nftables.message import MessageKind
from maglev0.dataplane.nftables.reader import TableReader
from maglev0.dataplane.nftables.ruleset import Hook
from maglev0.dataplane.verdict import InterfaceFacts, NftablesKernel
from maglev0.dataplane.xdp import state as look
from maglev0.errors import DataplaneError

# at reading the same twice; a hand-over changes the sets for a few hundred milliseconds at most
_ATTEMPTS = 20
_RULE_CHAIN, _TABLE_FLAGS, _DORMANT = (
    2,
    2,
    1,
)  # NFTA_RULE_CHAIN, NFTA_TABLE_FLAGS, NFT_TABLE_F_DORMANT
_ELEMENTS, _ELEMENT, _EXPIRATION = (
    3,
    1,
    5,
)  # NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_LIST_ELEM, NFTA_SET_ELEM_EXPIRATION


async def read(settings: Settings, vip: IPv4Address) -> NftablesKernel:
    """Read tables and sets in the network namespace of the calling thread.

    Raises `DataplaneError` when the state cannot be told: no rights, no rules of ours, or rules
    that do not match this version and these settings.
    """
    rights.require("reading the nftables rules")
    reader = _StateReader(ruleset.table_name(vip))
    try:
        service, hook = _carried_out(reader, settings, vip)
        _require_whole(reader, service, hook)
        link = await find_link(service.interface)
        buckets, lease = await _steady_buckets(reader), _steady_lease(reader)
        return NftablesKernel(
            service=service,
            hook=hook,
            host=InterfaceFacts(link.up, await address.is_held(vip)),
            program=look.read(service, link.ifindex),
            admitted=ruleset.buckets(service, buckets.admitted),
            owned={
                name: ruleset.buckets(service, held)
                for name, held in zip(ruleset.OWNED, buckets.owned, strict=True)
            },
            owned_slot=buckets.slot,
            lease_left_s=lease.left_s,
            lease_slot=lease.slot,
        )
    finally:
        reader.close()


class _SetsRead(NamedTuple):
    slot: str | None
    admitted: frozenset[int]
    owned: tuple[frozenset[int], ...]


class _LeaseSlots(NamedTuple):
    slot: str | None
    left_s: dict[str, float]


class _StateReader(TableReader):
    """Reads what the daemon itself does not ask for."""

    def rules(self) -> Counter[str]:
        """Return how many rules each chain has."""
        return Counter(
            dict(attributes(entry))[_RULE_CHAIN].rstrip(b"\0").decode()
            for entry in self._entries_of(MessageKind.GET_RULE, "inet")
        )

    def sleeps(self) -> bool:
        """Whether the table is switched off."""
        flags = [
            dict(attributes(entry)).get(_TABLE_FLAGS, b"")
            for entry in self._entries_of(MessageKind.GET_TABLE, "inet")
        ]
        return any(int.from_bytes(flag, "big") & _DORMANT for flag in flags)

    def left_s(self, name: str) -> float | None:
        """Return how many seconds the kernel keeps the element of a set; None without one."""
        try:
            found = [
                inner
                for entry in self._steady(MessageKind.GET_ELEMENTS, "inet", text(2, name))
                for inner in _elements(entry)
            ]
        except FileNotFoundError as error:
            raise self._no_set(name) from error
        return max(
            (
                int.from_bytes(dict(attributes(element)).get(_EXPIRATION, b""), "big") / 1000
                for element in found
            ),
            default=None,
        )


def _elements(entry: bytes) -> list[bytes]:
    listed = dict(attributes(entry)).get(_ELEMENTS, b"")
    return [element for kind, element in attributes(listed) if kind == _ELEMENT]


def _carried_out(reader: TableReader, settings: Settings, vip: IPv4Address) -> tuple[Service, Hook]:
    """Return the service that the rules were made for; their fingerprint names the interface."""
    structure = reader.structure("inet")
    if not structure:
        raise DataplaneError(
            f"there is no nftables table inet {ruleset.table_name(vip)} in this network namespace, "
            f"so no daemon serves {vip} here"
        )
    for _index, interface in socket.if_nameindex():
        service = settings.service(vip, interface)
        for hook in Hook:
            if ruleset.fingerprint(service, hook).encode() in structure:
                return service, hook
    table = f"nftables table inet {ruleset.table_name(vip)}"
    raise DataplaneError(
        f"the rules in {table} are not this version's for the cluster's settings, or their "
        "interface is gone"
    )


def _require_whole(reader: _StateReader, service: Service, hook: Hook) -> None:
    """Raise DataplaneError when a program removed rules from our tables or added some."""
    lines = ruleset.install(service, hook, mac_added=False).splitlines()
    rule = f"add rule inet {ruleset.table_name(service.vip)} "
    wanted = Counter(line.removeprefix(rule).split()[0] for line in lines if line.startswith(rule))
    if reader.rules() != wanted or reader.sleeps():
        raise DataplaneError(
            f"another program has changed the rules in nftables table inet "
            f"{ruleset.table_name(service.vip)}"
        )


async def _steady_buckets(reader: TableReader) -> _SetsRead:
    """Read the sets as they were together at one time.

    During a hand-over one is filled while another is in force.
    """
    before = await _buckets(reader)
    for _attempt in range(_ATTEMPTS):
        again = await _buckets(reader)
        if again == before:
            return again
        before = again
    raise DataplaneError("reading the buckets in force: they change all the time; ask again")


async def _buckets(reader: TableReader) -> _SetsRead:
    slot = reader.goto(ruleset.OWNED_SLOT)
    first, second = ruleset.OWNED
    return _SetsRead(
        slot,
        await reader.elements(ruleset.ADMITTED),
        (await reader.elements(first), await reader.elements(second)),
    )


def _steady_lease(reader: _StateReader) -> _LeaseSlots:
    for _attempt in range(_ATTEMPTS):
        slot = reader.goto(ruleset.LEASE_SLOT)
        left_s = {
            name: left for name in ruleset.LEASES if (left := reader.left_s(name)) is not None
        }
        if reader.goto(ruleset.LEASE_SLOT) == slot:
            return _LeaseSlots(slot, left_s)
    raise DataplaneError("reading the lease: it changes all the time; ask again")
