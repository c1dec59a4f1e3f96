"""What happens to ZooKeeper and the network before it, and hands that meddle with the znodes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from maglev0.protocol.membership import decode_ack, view_id
from maglev0.protocol.ports.zookeeper import Delete, Refused, Write
from tests.simulation.ensemble import Server
from tests.simulation.node import PATHS, Node
from tests.simulation.orders import MOST_HOSTS, some, span_s
from tests.simulation.world import World


def cut(world: World) -> None:
    """A host is cut off from ZooKeeper for a while."""
    node = some(world)
    if node is not None:
        cut_off(world, node, span_s(world))


def cut_off(world: World, node: Node, seconds: float) -> None:
    """Let nothing of this host's through for a while."""
    node.client.cut = True
    world.scheduler.trace(node, "cut off")
    world.scheduler.after(seconds, node.client.heal)


def _server(world: World) -> Server:
    return world.random.choice(world.ensemble.servers)


def _is_whole(world: World) -> bool:
    return world.ensemble.leader is not None and all(
        one.up and not one.cut for one in world.ensemble.servers
    )


def lag(world: World) -> None:
    """A server falls behind."""
    server = _server(world)
    server.lag_s = span_s(world, 0.0, 0.3)
    world.scheduler.trace(server, "lags", f"{server.lag_s:.3f}")
    world.scheduler.after(span_s(world), partial(setattr, server, "lag_s", 0.0))


def cut_server(world: World) -> None:
    """A follower is cut off from the leader, and notices only after a while."""
    server = _server(world)
    if server is world.ensemble.leader or not _is_whole(world):
        return
    server.cut = True
    world.scheduler.trace(server, "cut off from the leader")
    notice_s = span_s(world, 0.1)
    world.scheduler.after(notice_s, server.disconnect)
    world.scheduler.after(notice_s + span_s(world, 0.0), partial(world.ensemble.heal, server))


def crash_server(world: World) -> None:
    """A server crashes, and signs of life that it has not passed on are lost."""
    if _is_whole(world):
        crash(world, _server(world), says_so=world.random.random() < 0.5)


def crash(world: World, server: Server, *, says_so: bool) -> None:
    """Have a server crash; its clients see their connections closed, or hear nothing more."""
    ensemble = world.ensemble
    server.up = False
    world.scheduler.trace(server, "crashed")
    if says_so:
        server.disconnect()
    if server is ensemble.leader:
        ensemble.lose_leader()
        world.scheduler.after(span_s(world, 0.1, 0.3), ensemble.elect)
    world.scheduler.after(span_s(world, 0.3), partial(ensemble.heal, server))


def silence(world: World) -> None:
    """The leader is silent; after a while the others elect another."""
    ensemble = world.ensemble
    if ensemble.leader is None:
        return
    old, whole = ensemble.leader, _is_whole(world)
    ensemble.lose_leader()
    if world.random.random() < 0.5 and whole:
        old.cut = True
        world.scheduler.after(span_s(world, 0.1, 1.0), partial(ensemble.heal, old))
    for server in ensemble.servers:
        if not server.cut and world.random.random() < 0.5:
            world.scheduler.after(0.3 * world.random.random(), server.disconnect)
    world.scheduler.after(span_s(world, 0.1, 0.5), ensemble.elect)


def outage(world: World) -> None:
    """No server is there for a while."""
    ensemble = world.ensemble
    if ensemble.leader is None:
        return
    ensemble.lose_leader()
    for server in ensemble.servers:
        server.disconnect()
    world.scheduler.after(span_s(world, 0.5, 1.0), ensemble.elect)


def meddle(world: World, operations: Sequence[Delete | Write]) -> None:
    """Change znodes by hand."""
    world.scheduler.trace("hand", "meddles", operations)
    if world.ensemble.leader is None:
        return
    try:
        world.ensemble.commit(operations, 0)
    except Refused:
        return
    deleted = [one.path.rpartition("/") for one in operations if isinstance(one, Delete)]
    world.ack_deleted |= any(parent == PATHS.acks for parent, _, _ in deleted) or any(
        one.path.startswith(PATHS.acks + "/") for one in operations
    )
    world.hand_deleted |= {int(name) for parent, _, name in deleted if parent == PATHS.leases}


def _some_path(world: World) -> str:
    taken = [node.number for node in world.nodes.values()] or [1]
    number = world.random.choice(taken)
    return world.random.choice(
        (PATHS.member(number), PATHS.ack(number), PATHS.lease(number), PATHS.settings)
    )


def delete_one(world: World) -> None:
    """A record, an acknowledgement, a lease or the settings are deleted by hand."""
    meddle(world, [Delete(_some_path(world), -1)])


def overwrite_one(world: World) -> None:
    """Somebody overwrites a record, an acknowledgement, a lease or the settings.

    With nonsense, or with the data of another member. An acknowledgement of the present view is not
    copied: a forged one says that a member released what it holds, and against that only ACLs help.
    """
    path = _some_path(world)
    parent = path.rpartition("/")[0]
    other = world.ensemble.tree.nodes.get(f"{parent}/{world.random.randint(1, MOST_HOSTS)}")
    nonsense = other is None or world.random.random() < 0.5
    data = b"nonsense" if other is None or nonsense else other.data
    ack, members = decode_ack(data), world.ensemble.tree.nodes.get(PATHS.members)
    if ack is not None and members is not None and ack.view == view_id(members.stat):
        data = b"nonsense"
    meddle(world, [Write(path, data, -1)])


def delete_all(world: World) -> None:
    """A znode is deleted by hand with all below."""
    path = world.random.choice((PATHS.base, PATHS.members, PATHS.acks, PATHS.leases))
    meddle(world, [Delete(lower, -1) for lower in world.ensemble.tree.below(path)])
