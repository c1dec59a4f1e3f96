"""The dataplane of today's kernels: two tables of our own, the VIP's address and the cluster MAC on the traffic interface."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from maglev0.dataplane import Change, host, ruleset
from maglev0.dataplane.events import KernelEvents
from maglev0.dataplane.libnftables import Nft, NftError
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.service import HashFamily, HashMode, Service

_FAMILIES = ("ip", "arp")
_PROBE = Service(IPv4Address("192.0.2.1"), "lo", "03:bf:c0:00:02:01", 65537, HashMode.SOURCE_IP_PORT_DEST_PORT, 1)


def check() -> None:
    """Raise `UnavailableError` saying what keeps nftables from serving on this machine, and what mends it. Changes nothing."""
    nft = Nft()
    try:
        nft.check(ruleset.install(_PROBE, (ruleset.ADDRESS_NOTE,)))
    except NftError as error:
        if "not permitted" in str(error):
            raise UnavailableError("nftables: no right to change rules (CAP_NET_ADMIN); run as root") from error
        raise UnavailableError(
            f"nftables: this kernel refuses the rules ({error}); modprobe nf_tables nft_hash nft_ct, or use a newer kernel"
        ) from error


class _Found(NamedTuple):
    """What stands in the kernel under our tables' names: rules and sets without their contents, and the owned set's elements."""

    structure: str
    elements: frozenset[int]


class Nftables:
    """The `Dataplane` of one service on nftables."""

    family = HashFamily.NFTABLES

    def __init__(self, service: Service) -> None:
        self._service = service
        self._nft = Nft()
        self._events: KernelEvents | None = None
        self._owned: frozenset[int] = frozenset()
        self._notes: frozenset[str] = frozenset()
        self._structure = ""

    async def open(self) -> None:
        """See `Dataplane.open`. The rules stand before the address does, so that nothing is ever answered that they did not judge."""
        service = self._service
        self._events = self._events or KernelEvents(ruleset.table_name(service.vip))
        noted = self._noted()
        found = {
            ruleset.MAC_NOTE: host.has_multicast(service.interface, service.cluster_mac),
            ruleset.ADDRESS_NOTE: await host.has_address(service.vip),
        }
        # A note is written before what it tells of is done: a daemon killed in between leaves a note too many, never one too few.
        self._notes = frozenset(note for note, present in found.items() if note in noted or not present)
        self._install_afresh()
        await self._restore_host()

    async def apply(self, owned: frozenset[int]) -> Change:
        """See `Dataplane.apply`: one transaction with the differences alone."""
        change = Change(owned - self._owned, self._owned - owned)
        if any(change):
            self._nft.run(ruleset.change(self._service, *change))
            self._owned = owned
        return change

    async def owned(self) -> frozenset[int]:
        """See `Dataplane.owned`."""
        return ruleset.buckets(self._service, self._found().elements)

    async def disturbed(self) -> None:
        """See `Dataplane.disturbed`: links, addresses, and transactions of other processes that name our tables."""
        if self._events is None:
            raise DataplaneError("waiting for changes of a dataplane that is not open")
        await self._events.wait()

    async def repair(self) -> tuple[str, ...]:
        """See `Dataplane.repair`."""
        try:
            restored = ["the nftables rules"] if self._restore_rules() else []
        except NftError:
            # Without the rules this node would answer for every bucket; without the address it answers for none.
            if ruleset.ADDRESS_NOTE in self._notes:
                await host.remove_address(self._service.vip)
            raise
        return (*restored, *await self._restore_host())

    async def close(self) -> None:
        """See `Dataplane.close`: the address first, the rules last."""
        service = self._service
        if self._events is None:
            return
        self._events.close()
        self._events = None
        # A link that is gone took address and MAC with it.
        with contextlib.suppress(DataplaneError):
            if ruleset.ADDRESS_NOTE in self._notes:
                await host.remove_address(service.vip)
        with contextlib.suppress(DataplaneError):
            if ruleset.MAC_NOTE in self._notes:
                host.remove_multicast(service.interface, service.cluster_mac)
        self._nft.run(ruleset.remove(service.vip))
        self._owned = frozenset()

    def _install_afresh(self) -> None:
        """Put the rules in force; owned buckets survive where the same rules stood before."""
        stale = ruleset.fingerprint(self._service) not in self._listed_text()
        commands = ruleset.install(self._service, sorted(self._notes))
        self._nft.run(ruleset.remove(self._service.vip) + commands if stale else commands)
        found = self._found()
        self._structure = found.structure
        self._owned = ruleset.buckets(self._service, found.elements)

    def _restore_rules(self) -> bool:
        """Make rules and owned set what they should be; return whether anything had to be changed."""
        try:
            found = self._found()
        except NftError:
            found = _Found("", frozenset())
        wrong_rules = found.structure != self._structure
        if wrong_rules:
            # The empty rules first, in under a millisecond: without them this node answers for every bucket.
            service = self._service
            self._nft.run(ruleset.remove(service.vip) + ruleset.install(service, sorted(self._notes)))
            found = self._found()
            self._structure = found.structure
        wanted = ruleset.elements(self._service, self._owned)
        wrong_elements = found.elements != wanted
        if wrong_elements:
            self._load(wanted - found.elements, found.elements - wanted)
        return wrong_rules or wrong_elements

    def _load(self, added: Iterable[int], removed: Iterable[int]) -> None:
        self._nft.run(ruleset.change(self._service, added, removed))

    async def _restore_host(self) -> list[str]:
        """See to the link, the cluster MAC, then the address; return what was missing."""
        service = self._service
        index = await host.serving_link(service.interface)
        restored = []
        if not host.has_multicast(service.interface, service.cluster_mac):
            host.add_multicast(service.interface, service.cluster_mac)
            restored.append(f"the cluster MAC {service.cluster_mac} on {service.interface}")
        if not await host.has_address(service.vip):
            await host.add_address(index, service.vip)
            host.announce(service.interface, service.vip, service.cluster_mac)
            restored.append(f"the address {service.vip}")
        return restored

    def _noted(self) -> frozenset[str]:
        """Which of our notes an earlier daemon left in the kernel."""
        with contextlib.suppress(NftError):
            listing = self._nft.listing(f"table ip {ruleset.table_name(self._service.vip)}")
            return frozenset(item["set"]["name"] for item in listing if "set" in item) & {ruleset.ADDRESS_NOTE, ruleset.MAC_NOTE}
        return frozenset()

    def _listed_text(self) -> str:
        """Our table as nft prints it, which unlike its JSON shows the comment; empty where there is none."""
        with contextlib.suppress(NftError):
            return self._nft.run(f"list table ip {ruleset.table_name(self._service.vip)}")
        return ""

    def _found(self) -> _Found:
        name = ruleset.table_name(self._service.vip)
        elements: frozenset[int] = frozenset()
        structure: list[dict[str, Any]] = []
        for item in (item for family in _FAMILIES for item in self._nft.listing(f"table {family} {name}")):
            kind, value = next(iter(item.items()))
            if kind == "set" and value["name"] == ruleset.OWNED_SET:
                elements = frozenset(value.pop("elem", ()))
            structure.append({kind: {key: part for key, part in value.items() if key != "handle"}})
        return _Found(json.dumps(structure, sort_keys=True), elements)
