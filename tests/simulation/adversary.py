"""The course of one schedule.

A storm of faults and orders, planned changes in quiet, or sessions that pass from daemon to daemon.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from maglev0.core.view import ViewId
from tests.simulation import disturbances, orders, targeted
from tests.simulation.kernel import ViolationError
from tests.simulation.node import LEASE_MS, PATHS, SESSION_S, Node
from tests.simulation.world import World

Move = Callable[[World], object]

MOVES: tuple[tuple[Move, float], ...] = (
    (orders.join, 3), (orders.leave, 2), (orders.restart, 2), (orders.weigh, 1.5),
    (orders.adapt, 3), (orders.kill, 2), (orders.lose_host, 1), (orders.stop, 3), (orders.hang, 2),
    (orders.disturb, 1), (orders.unplug, 0.7), (orders.second, 0.7), (disturbances.cut, 2),
    (disturbances.lag, 2), (disturbances.cut_server, 2), (disturbances.crash_server, 1.5),
    (disturbances.silence, 1.5), (disturbances.outage, 0.5), (disturbances.delete_one, 1.5),
    (disturbances.overwrite_one, 1), (disturbances.delete_all, 0.3), (targeted.erase, 1),
    (targeted.reborn, 1), (targeted.rehearse, 0.5), (targeted.blink, 2), (targeted.overlook, 2),
    (targeted.pass_by, 2), (targeted.bustle, 2), (targeted.usurp, 1), (targeted.flap, 1),
)  # fmt: skip
RARE = (targeted.blink, targeted.overlook, targeted.pass_by, targeted.usurp)
GAP_S = 0.05
STRAGGLER_GAP_S = (
    1.02 * LEASE_MS / 1000 + 0.35
)  # a lease and its margin, and the renewal after that


def play(world: World) -> None:
    """Most schedules are storms; nothing is planned by hand but their kinds."""
    try:
        world.random.choices((storm, ambush, planned, succession), (6, 2, 1.5, 0.5))[0](world)
    finally:
        world.close()


def _begin(world: World, numbers: tuple[int, ...]) -> None:
    for number in range(1, world.random.choice(numbers) + 1):
        world.scheduler.after(world.random.random() * 0.5, partial(world.add_host, number))
    world.pass_s(2.0)


def storm(world: World) -> None:
    """A few hosts start, then a few kinds of moves happen many times, in bursts and with rests."""
    random, temper = world.random, world.site.temper
    temper.stops, temper.skips = (
        random.choice((0.0, 0.0, 0.002, 0.01)),
        random.choice((0.0, 0.0, 0.002, 0.01)),
    )
    temper.fails, temper.slow_loads = random.choice((0.0, 0.0, 0.0, 0.003)), True
    world.ensemble.slow = random.choice((0.0, 0.005, 0.03))
    _begin(world, (2, 3, 3, 4))
    kinds = random.sample(MOVES, random.choice((2, 3, 4, 6, len(MOVES))))
    moves, weights = [move for move, _ in kinds], [weight for _, weight in kinds]
    pace_s = random.choice((0.1, 0.3, 0.6))
    for _turn in range(random.randint(3, 12)):
        world.pass_s(random.expovariate(1 / pace_s))
        random.choices(moves, weights)[0](world)
    world.pass_s(random.random())
    _calm(world)
    world.settle()


def ambush(world: World) -> None:
    """A cluster at rest, and a few rare chains of events that need just that."""
    _begin(world, (2, 3, 3))
    for _turn in range(world.random.randint(1, 3)):
        world.random.choice(RARE)(world)
        world.pass_s(world.random.uniform(1.8, 2.6))
    _calm(world)
    world.settle()


def planned(world: World) -> None:
    """Nothing fails: the gap of each change is short, and a restart has none.

    At last a daemon hangs, and the others wait until its lease is over.
    """
    _begin(world, (2, 3))
    world.settle()
    for _turn in range(world.random.randint(2, 5)):
        world.gap_bound_s = GAP_S
        order = world.random.choice(
            (orders.join, orders.leave, orders.weigh, orders.adapt, _restart_unseen)
        )
        order(world)
        world.pass_s(world.random.choice((1.0, 4.0)))
        world.settle()
    hanging = orders.some(world)
    if hanging is not None and len(world.living) > 1:
        world.gap_bound_s, world.straggler = STRAGGLER_GAP_S, hanging.kernel
        hanging.process.hang(4.0)
        weighed = orders.some(world, hanging)
        orders.weigh(world, weighed)
        _wait_out(world, {hanging.number, 0 if weighed is None else weighed.number})
        world.settle()


def _wait_out(world: World, concerned: set[int]) -> None:
    """Nodes that wait for one that hangs go on accepting what they have meanwhile."""
    for _step in range(80):
        world.pass_s(0.05)
        for node in world.living:
            if (
                node.number not in concerned
                and node.kernel.in_force
                and node.kernel.lease_end < world.scheduler.now - 0.05
            ):
                raise ViolationError(f"{node}: its lease ended while it waited for another")


def _view(world: World) -> ViewId:
    stat = world.ensemble.tree.nodes[PATHS.members].stat
    return ViewId(stat.czxid, stat.cversion, stat.version)


def _restart_unseen(world: World) -> None:
    before, node = _view(world), orders.restart(world)
    assert node is not None
    in_force = node.kernel.in_force
    if node.flags.dry_run:
        return
    for _step in range(30):
        world.pass_s(0.05)
        if node.kernel.in_force != in_force or node.kernel.lease_end <= world.scheduler.now:
            raise ViolationError(f"{node}: its restart let go of something")
    if _view(world) != before:
        raise ViolationError(f"{node}: its restart made another view")


def succession(world: World) -> None:
    """Daemons are restarted, some with another session timeout, and servers crash.

    No session of a daemon that is there ends.
    """
    _begin(world, (2, 3))
    world.settle()
    for _turn in range(world.random.randint(1, 3)):
        node = orders.some(world)
        assert node is not None
        timeout_s = world.random.choice((SESSION_S, 3 * SESSION_S))
        orders.again(world, node, node.flags._replace(timeout_s=timeout_s), 0.02)
        world.pass_s(2.0)
        world.settle()
        _watch_sessions(world)
    _calm(world)
    world.settle()


def _watch_sessions(world: World) -> None:
    owners: dict[Node, int] = {node: node.client.session for node in world.living}
    leader = world.ensemble.leader
    assert leader is not None
    disturbances.crash(world, leader, says_so=False)
    world.pass_s(4.0)
    for node, session in owners.items():
        if not world.ensemble.sessions[session].alive:
            raise ViolationError(f"{node}: its session ended, though it was there")


def _calm(world: World) -> None:
    """Everything is repaired; each id has one daemon."""
    ensemble, temper = world.ensemble, world.site.temper
    ensemble.slow = temper.stops = temper.skips = temper.fails = 0.0
    temper.slow_loads = False
    for server in ensemble.servers:
        server.lag_s = 0.0
        if server.cut or not server.up:
            ensemble.heal(server)
    ensemble.elect()
    _one_each(world)
    for node in list(world.nodes.values()):
        node.process.skips = node.gate.fails_until = 0.0
        if node.client.cut:
            node.client.heal()
        world.scheduler.trace(node, "is left in peace")


def _one_each(world: World) -> None:
    seen: set[int] = set()
    for node in world.living:
        if node.number in seen:
            node.kill()
            node.kernel.clear()
        seen.add(node.number)
    if not seen:
        world.add_host(1)
