"""The dataplane of today's kernels: two tables of our own, the VIP's address and the cluster MAC on the traffic interface."""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import IPv4Address

from maglev0.dataplane import Change, host, nfdump, rights, ruleset
from maglev0.dataplane.events import KernelEvents
from maglev0.dataplane.libnftables import Nft, NftError
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.service import HashFamily, HashMode, Service

_ATTEMPTS = 3  # at restoring rules before the node counts as unable to serve
_PROBE = Service(IPv4Address("192.0.2.1"), "lo", "03:bf:c0:00:02:01", 65537, HashMode.SOURCE_IP_PORT_DEST_PORT, 1)


def check() -> None:
    """Raise `UnavailableError` saying what keeps nftables from serving on this machine, and what mends it. Changes nothing."""
    rights.require("nftables")  # without it libnftables would write to stderr by itself
    nft = Nft()
    try:
        nft.check(ruleset.install(_PROBE, mac_added=True))
    except NftError as error:
        raise UnavailableError(
            f"nftables: this kernel refuses the rules ({error}); modprobe nf_tables nft_hash nft_ct, or use a newer kernel"
        ) from error


def let_go(vip: IPv4Address) -> None:
    """Own nothing of what a killed daemon left for the VIP, before anything else is known."""
    table = ruleset.table_name(vip)
    if nfdump.structure("ip", table):
        Nft().run(f"flush set ip {table} {ruleset.OWNED_SET}")


async def remove_leftovers(vip: IPv4Address) -> None:
    """Remove what a killed daemon left for the VIP: the address first, the rules last."""
    await host.remove_our_address(vip)
    if nfdump.structure("ip", ruleset.table_name(vip)):
        Nft().run(ruleset.remove(vip))


class Nftables:
    """The `Dataplane` of one service on nftables."""

    family = HashFamily.NFTABLES

    def __init__(self, service: Service) -> None:
        self._service = service
        self._nft = Nft()
        self._events: KernelEvents | None = None
        self._table = ruleset.table_name(service.vip)
        self._desired: frozenset[int] = frozenset()  # elements of the owned set
        self._held: frozenset[int] = frozenset()  # what it held when last read or written
        self._mac_added = False
        self._structure: tuple[bytes, ...] = ()  # of our tables, as they stood right behind their installation

    async def open(self) -> None:
        """See `Dataplane.open`. The rules stand before the address does, so that nothing is ever answered that they did not judge."""
        service = self._service
        self._events = self._events or KernelEvents(self._table)
        # The note is written before the MAC is added: a daemon killed in between leaves a note too many, never one too few.
        present = host.has_multicast(service.interface, service.cluster_mac)
        noted = nfdump.has_set("ip", self._table, ruleset.MAC_NOTE)
        self._mac_added = not present or noted or await host.has_our_address(service.vip)
        self._install_afresh()
        await host.warn_of_found_address(service.vip)
        await self._restore_host()

    async def apply(self, owned: frozenset[int]) -> Change:
        """See `Dataplane.apply`: one transaction with the differences alone, unless they are very many."""
        self._desired = ruleset.elements(self._service, owned)
        change = await self._replace()
        return Change(*(ruleset.buckets(self._service, elements) for elements in change))

    async def owned(self) -> frozenset[int]:
        """See `Dataplane.owned`."""
        return ruleset.buckets(self._service, self._read_elements())

    async def disturbed(self) -> None:
        """See `Dataplane.disturbed`: links, addresses, and transactions of other processes that name our tables."""
        if self._events is None:
            raise DataplaneError("waiting for changes of a dataplane that is not open")
        await self._events.wait()

    async def repair(self) -> tuple[str, ...]:
        """See `Dataplane.repair`."""
        try:
            restored = ["the nftables rules"] if await self._restore_rules_again() else []
            return (*restored, *await self._restore_host())
        except host.LinkDownError:
            raise
        except DataplaneError:
            # Rules that are gone, or that name an interface which is, judge nothing: without the address the node answers for none.
            with contextlib.suppress(DataplaneError):
                await host.remove_our_address(self._service.vip)
            raise

    async def close(self) -> None:
        """See `Dataplane.close`: the address first, the rules last."""
        service = self._service
        if self._events is None:
            return
        self._events.close()
        self._events = None
        # A link that is gone took address and MAC with it.
        with contextlib.suppress(DataplaneError):
            await host.remove_our_address(service.vip)
        with contextlib.suppress(DataplaneError):
            if self._mac_added:
                host.remove_multicast(service.interface, service.cluster_mac)
        self._nft.run(ruleset.remove(service.vip))

    def _install_afresh(self) -> None:
        """Put the rules in force; owned buckets survive where the same rules stood before."""
        stale = ruleset.fingerprint(self._service).encode() not in nfdump.structure("ip", self._table)
        commands = ruleset.install(self._service, mac_added=self._mac_added)
        self._nft.run(ruleset.remove(self._service.vip) + commands if stale else commands)
        self._remember_structure()
        self._held = self._desired = self._read_elements()

    async def _restore_rules_again(self) -> bool:
        """Restore the rules, also while another program is taking them away."""
        for _attempt in range(_ATTEMPTS):
            with contextlib.suppress(DataplaneError):
                return await self._restore_rules()
        return await self._restore_rules()

    async def _restore_rules(self) -> bool:
        """Make rules and owned set what they should be; return whether anything had to be changed."""
        wrong_rules = self._read_structure() != self._structure
        if wrong_rules:
            # The empty rules first, in a millisecond: without them this node answers for every bucket.
            self._nft.run(ruleset.remove(self._service.vip) + ruleset.install(self._service, mac_added=self._mac_added))
            self._remember_structure()
        self._held = self._read_elements()
        return any(await self._replace()) or wrong_rules

    async def _replace(self) -> Change:
        """Turn the elements held into those desired; after a failure, those held are what the kernel has."""
        change = Change(self._desired - self._held, self._held - self._desired)
        for piece in ruleset.in_pieces(change):
            self._nft.run(ruleset.commands(self._service, piece))
            self._held = self._held - piece.removed | piece.added
            await asyncio.sleep(0)  # signals and the watchdog are served between large transactions
        return change

    async def _restore_host(self) -> list[str]:
        """See to the link, the cluster MAC, then the address; return what was missing."""
        service = self._service
        index = await host.serving_link(service.interface)
        restored = []
        if not host.has_multicast(service.interface, service.cluster_mac):
            host.add_multicast(service.interface, service.cluster_mac)
            restored.append(f"the cluster MAC {service.cluster_mac} on {service.interface}")
        if await host.place_address(service.interface, index, service.vip):
            host.announce(service.interface, service.vip, service.cluster_mac)
            restored.append(f"the address {service.vip}")
        return restored

    def _remember_structure(self) -> None:
        structure = self._read_structure()
        # Remembered without a table, the rules would count as complete from then on while there are none.
        if not all(structure):
            raise DataplaneError("installing nftables rules: another program removes them at once")
        self._structure = structure

    def _read_structure(self) -> tuple[bytes, ...]:
        return tuple(nfdump.structure(family, self._table) for family in ("ip", "arp"))

    def _read_elements(self) -> frozenset[int]:
        return nfdump.elements("ip", self._table, ruleset.OWNED_SET)
