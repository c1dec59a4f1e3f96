"""What the rules do with packets, in every state that a bucket and a lease can be in."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from maglev0.core.packet_hash import PacketFields, PacketHash
from maglev0.core.service import HashFamily, HashMode
from maglev0.core.transition import Move
from maglev0.dataplane.nftables.dataplane import Nftables
from maglev0.protocol.ports.gate import Commit
from tests.kernel.conftest import Host
from tests.kernel.nft import LEASE_MS, NOTHING, SERVICE, hand_over, opened, renew
from tests.kernel.wire import ACK, CWR, ECE, FIN, PSH, RST, SYN, Client, Wire, checksum, wired
from tests.support.one_host import INTERFACE

pytestmark = pytest.mark.kernel

OWNED, KEPT, FOREIGN, GAINING, LOSING = 1, 2, 3, 4, 5


def judged(
    host: Host, scenario: Callable[[Nftables, Wire], Awaitable[None]], *, guard: bool = True
) -> None:
    """Run a scenario on a host with a bucket of each kind; a move is loaded, and no lease runs."""

    async def run(wire: Wire) -> None:
        async with opened(guard=guard) as dataplane:
            await hand_over(dataplane, {OWNED, KEPT, LOSING})
            await hand_over(dataplane, (), {KEPT})
            await dataplane.stage(Move(frozenset({GAINING}), frozenset({LOSING})))
            await scenario(dataplane, wire)

    with wired(host, SERVICE) as wire:
        asyncio.run(run(wire))


NEW: dict[str, Callable[[Client], object]] = {
    "SYN": lambda client: client.ask(SYN),
    "ECN SYN": lambda client: client.ask(SYN | ECE | CWR),
    "SYN with PSH": lambda client: client.ask(SYN | PSH),
    "datagram": Client.datagram,
    "ping": Client.ping,
}


def answered(wire: Wire, bucket: int) -> set[str]:
    """Which new flows a bucket's new clients get an answer to."""
    return {name for name, ask in NEW.items() if ask(wire.client(bucket))}


def accepted(wire: Wire) -> set[int]:
    """The buckets in which new flows are accepted; never some and some."""
    found = {bucket: answered(wire, bucket) for bucket in (OWNED, KEPT, FOREIGN, GAINING, LOSING)}
    assert all(names in (set(), set(NEW)) for names in found.values()), found
    return {bucket for bucket, names in found.items() if names}


def test_new_flows_are_accepted_in_buckets_in_force_while_the_lease_runs(host: Host) -> None:
    async def scenario(dataplane: Nftables, wire: Wire) -> None:
        assert accepted(wire) == set()
        await dataplane.arm()
        assert accepted(wire) == set()
        await dataplane.promote()
        assert accepted(wire) == {OWNED, LOSING}
        await dataplane.commit(Commit.RELEASE)
        assert accepted(wire) == {OWNED}
        await dataplane.commit(Commit.ACQUIRE)
        assert accepted(wire) == {OWNED, GAINING}
        await renew(dataplane)
        assert accepted(wire) == {OWNED, GAINING}
        await dataplane.drop()
        assert accepted(wire) == set()

    judged(host, scenario)


STRAY = {
    "ACK": ACK,
    "data": PSH | ACK,
    "SYN-ACK": SYN | ACK,
    "FIN": FIN | ACK,
    "RST": RST,
    "no flags": 0,
}


@pytest.mark.parametrize("name", STRAY)
def test_a_segment_of_no_connection_here_is_dropped_in_silence(host: Host, name: str) -> None:
    """It is another node's: an answer would be a reset, which kills it."""

    async def scenario(dataplane: Nftables, wire: Wire) -> None:
        await renew(dataplane)
        for bucket in (OWNED, KEPT, FOREIGN, GAINING, LOSING):
            assert wire.client(bucket).ask(STRAY[name], b"x") == []

    judged(host, scenario)


def test_a_connection_stays_when_its_bucket_leaves_and_when_the_lease_ends(host: Host) -> None:
    async def scenario(dataplane: Nftables, wire: Wire) -> None:
        await renew(dataplane)
        leaver, stayer, half_open = wire.client(LOSING), wire.client(OWNED), wire.client(LOSING)
        leaver.connect()
        stayer.connect()
        (answer,) = half_open.ask(SYN)
        assert answer.flags == SYN | ACK
        await dataplane.commit(Commit.RELEASE)
        assert leaver.talks()
        await dataplane.commit(Commit.ACQUIRE)
        assert half_open.talks(), "the third segment of the handshake comes after the move"
        await dataplane.drop()
        assert all(client.talks() for client in (leaver, stayer, half_open))
        assert wire.client(OWNED).ask(SYN) == []
        await hand_over(dataplane, {OWNED}, {GAINING})
        assert all(client.talks() for client in (leaver, stayer, half_open))

    judged(host, scenario)


def test_a_syn_sent_again_after_its_bucket_left_is_dropped(host: Host) -> None:
    """The new owner answers it; were the old one to answer too, there would be two."""

    async def scenario(dataplane: Nftables, wire: Wire) -> None:
        await renew(dataplane)
        established, half_open = wire.client(LOSING), wire.client(LOSING)
        established.connect()
        half_open.ask(SYN)
        assert established.ask(SYN) != []
        assert half_open.ask(SYN) != []
        await dataplane.commit(Commit.RELEASE)
        assert established.ask(SYN) == half_open.ask(SYN) == []
        assert established.talks()

    judged(host, scenario)


def test_datagrams_and_pings_follow_the_bucket_whatever_connection_tracking_says(
    host: Host,
) -> None:
    async def scenario(dataplane: Nftables, wire: Wire) -> None:
        await renew(dataplane)
        client = wire.client(LOSING)
        for _again in range(3):  # established, to connection tracking
            assert client.datagram()
            assert client.ping()
        await dataplane.commit(Commit.RELEASE)
        assert not client.datagram()
        assert not client.ping()

    judged(host, scenario)


def test_once_forgotten_a_bucket_reaches_connection_tracking_no_more(host: Host) -> None:
    async def scenario(dataplane: Nftables, wire: Wire) -> None:
        await renew(dataplane)
        client = wire.client(LOSING)
        client.connect()
        await dataplane.commit(Commit.RELEASE)
        await dataplane.commit(Commit.ACQUIRE)
        await dataplane.unpin(frozenset({OWNED, KEPT, GAINING}))
        assert client.talks()
        assert accepted(wire) == {OWNED, GAINING}
        await dataplane.unpin(frozenset({LOSING}))
        assert not client.talks()

    judged(host, scenario)


def test_an_icmp_error_reaches_the_connection_that_it_is_about_from_any_bucket(host: Host) -> None:
    """Routers' addresses hash anywhere, and every node sees their errors.

    Only one of them holds the connection.
    """

    async def scenario(dataplane: Nftables, wire: Wire) -> None:
        await renew(dataplane)
        holder, stranger = wire.client(LOSING), wire.client(LOSING)
        holder.connect()
        assert holder.talks()
        await dataplane.commit(Commit.RELEASE)
        for client, reached in ((stranger, False), (holder, True)):
            wire.send(
                wire.client(FOREIGN).address,
                socket.IPPROTO_ICMP,
                fragmentation_needed(client, mtu=1234),
            )
            assert holder.talks()
            assert (
                "mtu 1234"
                in host.run("ip", "route", "get", str(client.address), "from", str(SERVICE.vip))
            ) == reached

    judged(host, scenario)


def fragmentation_needed(client: Client, mtu: int) -> bytes:
    """The ICMP error of a router that could not pass on a segment from the VIP to the client (RFC
    792, RFC 1191).
    """
    quoted = (
        struct.pack("!BBHHHBBH", 0x45, 0, 1500, 0, 0x4000, 64, socket.IPPROTO_TCP, 0)
        + SERVICE.vip.packed
        + client.address.packed
    )
    quoted += struct.pack("!HHI", 8000, client.port, client.acknowledged)
    bare = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted
    return bare[:2] + struct.pack("!H", checksum(bare)) + bare[4:]


@pytest.mark.parametrize("mode", [HashMode.SOURCE_IP_PORT, HashMode.SOURCE_IP_PORT_DEST_PORT])
def test_with_ports_in_the_hash_they_decide(host: Host, mode: HashMode) -> None:
    service = replace(SERVICE, hash_mode=mode)

    async def run(wire: Wire) -> None:
        async with opened(service) as dataplane:
            await hand_over(dataplane, {1, 2})
            await renew(dataplane)
            address = wire.client(1).address
            for port in range(30_000, 30_020):
                client = Client(wire, 1, address, port)
                mine = wire._hashing.bucket(
                    PacketFields(address, socket.IPPROTO_TCP, port, 8000)
                ) in {1, 2}
                assert bool(client.ask(SYN)) == client.datagram() == mine
                if mine:
                    await hand_over(dataplane, (), {1, 2})
                    assert client.talks()
                    assert not client.datagram()
                    await hand_over(dataplane, {1, 2})

    with wired(host, service) as wire:
        asyncio.run(run(wire))


@pytest.mark.parametrize("guard", [True, False])
def test_connections_stay_through_a_kill_and_a_restart(host: Host, guard: bool) -> None:
    async def scenario(dataplane: Nftables, wire: Wire) -> None:
        await renew(dataplane)
        client = wire.client(LOSING)
        client.connect()
        await dataplane.commit(Commit.RELEASE)
        assert dataplane._events is not None
        dataplane._events.close()
        dataplane._tables.close()
        assert client.talks()
        assert accepted(wire) == {OWNED}
        async with opened(guard=guard) as again:
            assert client.talks()
            assert accepted(wire) == {OWNED}
            assert await again.kept() == {KEPT, LOSING, GAINING}
        dataplane._events = None

    judged(host, scenario, guard=guard)


def test_nothing_is_in_force_of_an_empty_dataplane(host: Host) -> None:
    async def run(wire: Wire) -> None:
        async with opened() as dataplane:
            await renew(dataplane)
            assert accepted(wire) == set()
            await hand_over(dataplane, NOTHING)
            assert accepted(wire) == set()

    with wired(host, SERVICE) as wire:
        asyncio.run(run(wire))


def test_connections_older_than_the_first_start_are_kept(host: Host) -> None:
    async def run(wire: Wire, clients: list[Client]) -> None:
        async with opened() as dataplane:
            assert await dataplane.kept() == {client.bucket for client in clients}
            wire.reach(SERVICE.cluster_mac)
            assert all(client.talks() for client in clients)
            assert accepted(wire) == set()
            assert (await dataplane.connections()).buckets == {client.bucket for client in clients}

    with wired(host, SERVICE) as wire:
        host.run("ip", "address", "add", f"{SERVICE.vip}/32", "dev", INTERFACE)
        wire.reach(
            json.loads(host.run("ip", "-json", "link", "show", "dev", INTERFACE))[0]["address"]
        )
        clients = [wire.client(1), wire.client(2), wire.client(2)]
        for client in clients:
            client.connect()
        asyncio.run(run(wire, clients))


def test_connections_are_kept_when_rules_of_another_version_or_for_other_settings_are_replaced(
    host: Host,
) -> None:
    other = replace(SERVICE, hash_seed=SERVICE.hash_seed + 1)

    async def run(wire: Wire) -> None:
        client = wire.client(1)
        dataplane = Nftables(SERVICE, LEASE_MS)
        await dataplane.open()
        await hand_over(dataplane, {1})
        await renew(dataplane)
        client.connect()
        assert dataplane._events is not None
        dataplane._events.close()
        dataplane._tables.close()
        async with opened(other) as changed:
            hashed = PacketHash(
                HashFamily.NFTABLES, other.hash_mode, other.hash_seed, other.total_nodes
            )
            assert await changed.owned() == NOTHING
            assert await changed.kept() == {
                hashed.bucket(PacketFields(client.address, socket.IPPROTO_TCP))
            }
            assert client.talks()
            await renew(changed)
            assert accepted(wire) == set()

    with wired(host, SERVICE) as wire:
        asyncio.run(run(wire))
