"""The nftables dataplane: two tables of our own, the VIP's address and the cluster MAC."""

from __future__ import annotations

import contextlib
import logging
from ipaddress import IPv4Address

from maglev0.core.packet_hash import PacketHash
from maglev0.core.service import HashFamily, HashMode, Service, Xdp
from maglev0.core.transition import Move
from maglev0.dataplane import rights
from maglev0.dataplane.conntrack import connections
from maglev0.dataplane.host import address, multicast
from maglev0.dataplane.host.announcer import announcer_of
from maglev0.dataplane.host.link import Link, LinkDownError, find_link
from maglev0.dataplane.netlink.events import KernelEvents
from maglev0.dataplane.nftables import ruleset
from maglev0.dataplane.nftables.buckets import BucketSets
from maglev0.dataplane.nftables.lease_timer import NftLeaseTimer
from maglev0.dataplane.nftables.libnftables import Nft, NftError
from maglev0.dataplane.nftables.rules import Rules
from maglev0.dataplane.nftables.ruleset import Hook
from maglev0.dataplane.nftables.tables import Tables
from maglev0.dataplane.xdp import filter as xdp_filter
from maglev0.dataplane.xdp.filter import XdpFilter
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.protocol.ports.gate import Commit
from maglev0.protocol.ports.readings import Connections, Count, Counters

log = logging.getLogger(__name__)

_ATTEMPTS = 3  # at restoring rules before the node counts as unable to serve
_PROBE = Service(
    IPv4Address("192.0.2.1"), "lo", "03:bf:c0:00:02:01", 65537, HashMode.SOURCE_IP_PORT_DEST_PORT, 1
)


def check() -> None:
    """Raise `UnavailableError` when nftables cannot serve on this machine.

    The error says what is missing and what fixes it. Changes nothing.
    """
    rights.require("nftables")  # without these libnftables would itself write to stderr
    nft = Nft()
    try:
        nft.check(ruleset.probe(_PROBE, Hook.PREROUTING))
    except NftError as error:
        raise UnavailableError(
            f"nftables: this kernel refuses the rules ({error}); "
            "modprobe nf_tables nft_hash nft_ct, or use a newer kernel"
        ) from error


async def remove_leftovers(vip: IPv4Address) -> None:
    """Remove what a killed daemon left for the VIP: the address first, the rules last."""
    with contextlib.suppress(DataplaneError):
        xdp_filter.remove_leftovers(vip)
    tables = Tables(ruleset.table_name(vip))
    try:
        tables.open()
        await address.remove_ours(vip)
        if tables.reader.structure("inet"):
            tables.remove()
    finally:
        tables.close()


class Nftables:
    """The `Dataplane` of one service on nftables, with leases of `lease_ms` milliseconds.

    `xdp` says what refuses foreign packets before the rules do. `guard` keeps other programs off
    our tables if the kernel can; otherwise the daemon restores what they change. `counted` makes
    the early stage count what it refuses.
    """

    family = HashFamily.NFTABLES

    def __init__(
        self,
        service: Service,
        lease_ms: int,
        *,
        xdp: Xdp = Xdp.OFF,
        guard: bool = True,
        counted: bool = False,
    ) -> None:
        self._service = service
        self._hashing = PacketHash(
            HashFamily.NFTABLES, service.hash_mode, service.hash_seed, service.total_nodes
        )
        self._tables = Tables(ruleset.table_name(service.vip), guard=guard)
        self._rules = Rules(self._tables, service, counted=counted)
        self._xdp_filter = XdpFilter(service, xdp)
        self._buckets = BucketSets(self._tables, service, self._xdp_filter)
        self._lease = NftLeaseTimer(self._tables, service.vip, lease_ms)
        self._events: KernelEvents | None = None
        self._mac_added = False
        self._is_trusted = True

    async def open(self) -> None:
        """See `Upkeep.open`.

        The rules come before the address, so they judge every packet that this host answers.
        """
        service = self._service
        self._tables.open()
        self._events = self._events or KernelEvents(
            ruleset.table_name(service.vip), self._tables.port
        )
        link = await find_link(service.interface)
        self._rules.choose_hook(shared=link.sharer is not None)
        # The note is written before the MAC is added: a killed daemon may leave a note too many,
        # but never one too few.
        present = multicast.has(service.interface, service.cluster_mac)
        self._mac_added = not present or self._rules.noted() or await address.is_ours(service.vip)
        self._rules.note(mac_added=self._mac_added)
        await (self._adopt_rules() if self._rules.in_force() else self._install_rules())
        self._watch()
        if not self._tables.guarded:
            log.info(
                "this kernel lets other programs flush our nftables rules; the daemon restores "
                "them "
                "(Linux 6.9 and later can forbid it)"
            )
        self._xdp_filter.open(link.ifindex, link.sharer, self._buckets.admitted)
        await address.warn_if_found(service.vip)
        await self._restore_host(await find_link(service.interface))

    async def stage(self, move: Move) -> None:
        """See `Gate.stage`; works in pieces, between which the loop turns."""
        await self._buckets.stage(move)

    async def commit(self, to: Commit) -> None:
        """See `Gate.commit`; one element of a map is replaced."""
        self._buckets.commit(to)

    async def arm(self) -> None:
        """See `LeaseTimer.arm`."""
        self._lease.arm()

    async def promote(self) -> None:
        """See `LeaseTimer.promote`."""
        self._lease.promote()

    async def drop(self) -> None:
        """See `LeaseTimer.drop`."""
        self._lease.drop()

    async def owned(self) -> frozenset[int]:
        """See `Readings.owned`."""
        return await self._buckets.owned()

    async def kept(self) -> frozenset[int]:
        """See `Readings.kept`.

        Gains that a killed daemon had staged count as kept until they are unpinned: they cannot be
        told apart.
        """
        return await self._buckets.kept()

    async def connections(self) -> Connections:
        """See `Readings.connections`; the source is connection tracking."""
        return await connections.held(self._service.vip, self._hashing)

    async def counters(self) -> Counters | None:
        """See `Statistics.counters`."""
        xdp = self._xdp_filter.counters()
        passed, refused = (None, None) if xdp is None else (Count(*xdp.passed), Count(*xdp.dropped))
        named = self._tables.reader.counters()
        return Counters(
            passed,
            refused,
            self._rules.refused_early(),
            *(named.get(name) for name in (*ruleset.ACCEPTED, *ruleset.REFUSED)),
        )

    async def unpin(self, buckets: frozenset[int]) -> None:
        """See `Gate.unpin`."""
        await self._buckets.unpin(buckets)

    @property
    def early_drop(self) -> str:
        """See `Statistics.early_drop`."""
        return self._xdp_filter.mode

    def distrust(self) -> None:
        """See `Upkeep.distrust`."""
        self._is_trusted = False

    async def disturbed(self) -> None:
        """See `Upkeep.disturbed`.

        It wakes for links, addresses, and transactions of other processes that name our tables.
        """
        if self._events is None:
            raise DataplaneError("waiting for changes of a dataplane that is not open")
        await self._events.wait()

    async def repair(self) -> tuple[str, ...]:
        """See `Upkeep.repair`."""
        try:
            link = await find_link(self._service.interface)
            self._rules.choose_hook(shared=link.sharer is not None)
            restored = ["the nftables rules"] if await self._restore_rules_again() else []
            return (*restored, *await self._restore_host(link))
        except LinkDownError:
            raise
        except DataplaneError:
            # Rules that are gone, or that name an interface that is gone, judge nothing. Without
            # the address this node answers for no bucket.
            with contextlib.suppress(DataplaneError):
                await address.remove_ours(self._service.vip)
            raise

    async def close(self) -> None:
        """See `Upkeep.close`; the address goes first, the rules last."""
        service = self._service
        if self._events is None:
            self._tables.close()
            return
        self._events.close()
        self._events = None
        # A link that is gone took address and MAC with it.
        with contextlib.suppress(DataplaneError):
            await address.remove_ours(service.vip)
        with contextlib.suppress(DataplaneError):
            if self._mac_added:
                multicast.remove(service.interface, service.cluster_mac)
        self._xdp_filter.close()
        try:
            self._tables.remove()
        finally:
            self._tables.close()

    async def _adopt_rules(self) -> None:
        self._rules.complete()
        await self._buckets.adopt()
        self._lease.adopt()

    async def _install_rules(self) -> None:
        """Install rules where none are, or where they are of another version or other settings.

        Existing connections are kept.
        """
        self._xdp_filter.forget()
        if not self._rules.standing():
            # Nothing judges yet and nothing shall be cut, so connections are entered before the
            # rules drop anything, and once more for those that began since.
            self._rules.prepare()
            await self._buckets.adopt()
            await self._keep_connections()
            self._rules.complete()
        else:
            self._rules.install()
            await self._buckets.adopt()
        self._lease.adopt()
        await self._keep_connections()

    async def _keep_connections(self) -> None:
        """Admit the buckets of connections older than our rules.

        Connection tracking may not know these connections.
        """
        entered = await connections.enter_sockets(self._service.vip, self._hashing)
        held = await connections.held(self._service.vip, self._hashing)
        await self._buckets.admit(entered | held.buckets)

    async def _restore_rules_again(self) -> bool:
        """Restore the rules, also while another program is removing them."""
        for _attempt in range(_ATTEMPTS):
            with contextlib.suppress(DataplaneError):
                return await self._restore_rules()
        return await self._restore_rules()

    async def _restore_rules(self) -> bool:
        """Make rules, buckets and lease what they should be; return whether anything changed."""
        wrong_rules = self._rules.changed()
        if wrong_rules:
            # The empty rules first, in a millisecond: without them this node answers in every
            # bucket.
            self._rules.install()
            self._lease.adopt()
            self._watch()
        elif self._tables.guarded and self._is_trusted:
            return False
        wrong_lease = self._lease.restore()
        wrong_buckets = await self._buckets.restore()
        self._is_trusted = True
        return wrong_buckets or wrong_lease or wrong_rules

    def _watch(self) -> None:
        """Get events of changes to our tables, where other programs can change them."""
        if self._events is not None:
            self._events.watch_tables(watch=not self._tables.guarded)

    async def _restore_host(self, link: Link) -> list[str]:
        """Restore the XDP program, the cluster MAC, then the address; return what was missing.

        LinkDownError when the link is down.
        """
        link.require_up()
        service = self._service
        restored = []
        if self._xdp_filter.repair(link.ifindex, link.sharer, self._buckets.admitted):
            restored.append(f"the XDP program on {service.interface}")
        if not multicast.has(service.interface, service.cluster_mac):
            multicast.add(service.interface, service.cluster_mac)
            restored.append(f"the cluster MAC {service.cluster_mac} on {service.interface}")
        if await address.place(service.interface, link.ifindex, service.vip):
            announcer_of(service).announce()
            restored.append(f"the address {service.vip}")
        return restored
