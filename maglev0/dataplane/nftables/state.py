"""What a kernel has in force for a VIP by our nftables rules, read and not touched, whichever process serves it."""

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

_ATTEMPTS = 20  # at reading twice the same; a hand-over changes the sets for some hundred milliseconds at most
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
    """Read it in the network namespace of the calling thread.

    Raises `DataplaneError` where nothing can be said of it: no rights, no rules of ours, or rules that are not what this version and these settings
    make them.
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


class _BucketSets(NamedTuple):
    slot: str | None
    admitted: frozenset[int]
    owned: tuple[frozenset[int], ...]


class _LeaseSlots(NamedTuple):
    slot: str | None
    left_s: dict[str, float]


class _StateReader(TableReader):
    """What is asked here beside what the daemon asks."""

    def rules(self) -> Counter[str]:
        """How many rules each chain has."""
        return Counter(
            dict(attributes(entry))[_RULE_CHAIN].rstrip(b"\0").decode()
            for entry in self._entries_of(MessageKind.GET_RULE, "inet")
        )

    def sleeps(self) -> bool:
        """Whether somebody has switched the table off."""
        flags = [
            dict(attributes(entry)).get(_TABLE_FLAGS, b"")
            for entry in self._entries_of(MessageKind.GET_TABLE, "inet")
        ]
        return any(int.from_bytes(flag, "big") & _DORMANT for flag in flags)

    def left_s(self, name: str) -> float | None:
        """How long the kernel keeps the element of a set with timeouts; `None` where there is none any more."""
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
    """Which service the rules were made for: the fingerprint in them tells their interface, too."""
    structure = reader.structure("inet")
    if not structure:
        raise DataplaneError(
            f"there is no nftables table inet {ruleset.table_name(vip)} in this network namespace, so no daemon serves {vip} here"
        )
    for _index, interface in socket.if_nameindex():
        service = settings.service(vip, interface)
        for hook in Hook:
            if ruleset.fingerprint(service, hook).encode() in structure:
                return service, hook
    table = f"nftables table inet {ruleset.table_name(vip)}"
    raise DataplaneError(
        f"the rules in {table} are not this version's for the cluster's settings, or their interface is gone"
    )


def _require_whole(reader: _StateReader, service: Service, hook: Hook) -> None:
    """DataplaneError where somebody took rules out of our tables, or put others in."""
    lines = ruleset.install(service, hook, mac_added=False).splitlines()
    rule = f"add rule inet {ruleset.table_name(service.vip)} "
    wanted = Counter(line.removeprefix(rule).split()[0] for line in lines if line.startswith(rule))
    if reader.rules() != wanted or reader.sleeps():
        raise DataplaneError(
            f"another program has changed the rules in nftables table inet {ruleset.table_name(service.vip)}"
        )


async def _steady_buckets(reader: TableReader) -> _BucketSets:
    """The sets as they stood together at one time: in a hand-over one is being filled while another is in force."""
    before = await _buckets(reader)
    for _attempt in range(_ATTEMPTS):
        again = await _buckets(reader)
        if again == before:
            return again
        before = again
    raise DataplaneError("reading the buckets in force: they change all the time; ask again")


async def _buckets(reader: TableReader) -> _BucketSets:
    slot = reader.goto(ruleset.OWNED_SLOT)
    first, second = ruleset.OWNED
    return _BucketSets(
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
