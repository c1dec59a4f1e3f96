"""Rare chains of events; a rule of the protocol was made against each.

Chance decides when and to whom they happen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from maglev0.protocol.ports.zookeeper import Delete
from tests.simulation.disturbances import cut_off, meddle
from tests.simulation.node import PATHS, Flags, Node
from tests.simulation.orders import again, free_number, join, leave, restart, some, weigh
from tests.simulation.world import World


def _erase(world: World, number: int) -> None:
    meddle(world, [Delete(PATHS.member(number), -1)])


def erase(world: World) -> None:
    """A daemon is killed, and its record is deleted by hand while its kernel goes on."""
    node = some(world)
    if node is not None and len(world.living) > 1:
        node.kill()
        _erase(world, node.number)


def reborn(world: World) -> None:
    """Somebody deletes the record of a killed daemon, and another host gets its id.

    The kernel of the killed daemon goes on.
    """
    node = some(world)
    if node is not None:
        node.kill()
        _erase(world, node.number)
        world.add_host(node.number, node.flags)


def rehearse(world: World) -> None:
    """Somebody deletes the record of a killed daemon, and a dry run of its id starts there.

    The kernel of the killed daemon goes on.
    """
    node = some(world)
    if node is not None and not node.flags.dry_run:
        node.kill()
        _erase(world, node.number)
        world.rehearse(node.kernel)


def blink(world: World) -> None:
    """A daemon hangs through a change of view and the next.

    The member that took buckets from it under the first is cut off before the second.
    """
    number, random = free_number(world), world.random
    blind = some(world)
    if number is None or blind is None:
        return
    taker = world.add_host(number)
    apart_s = random.uniform(0.26, 0.5)
    blind.process.hang(apart_s + random.uniform(0.0, 0.08))
    world.scheduler.after(apart_s - 0.003, partial(cut_off, world, taker, random.uniform(0.8, 2.0)))
    world.scheduler.after(apart_s, partial(_erase, world, number))


def overlook(world: World) -> None:
    """A daemon hangs through one change of view and wakes to the next.

    Under that one another member is slow to release.
    """
    blind, random = some(world), world.random
    slow = some(world, blind)
    if blind is None or slow is None:
        return
    apart_s = random.uniform(0.75, 1.0)
    blind.process.hang(apart_s)
    weigh(world, some(world, blind))
    change = random.choice(
        (partial(join, world), partial(leave, world), partial(weigh, world, blind))
    )
    world.scheduler.after(apart_s - 0.01, partial(_slow_change, world, slow, change))


def _slow_change(world: World, slow: Node, change: Callable[[], object]) -> None:
    slow.process.hang(world.random.uniform(0.1, 0.4))
    change()


def pass_by(world: World) -> None:
    """Somebody comes and is killed again while another daemon hangs; its kernel goes on."""
    blind, number = some(world), free_number(world)
    if blind is None or number is None:
        return
    apart_s = world.random.uniform(0.85, 1.3)
    blind.process.hang(apart_s)
    comer = world.add_host(number, Flags(world.random.choice((1, 2, 3))))
    world.scheduler.after(apart_s - 0.01, comer.kill)
    world.scheduler.after(apart_s - 0.005, partial(_erase, world, number))


def bustle(world: World) -> None:
    """Several changes within a few round trips."""
    random = world.random
    for _change in range(random.randint(2, 5)):
        world.scheduler.after(
            0.02 * random.random(),
            partial(random.choice((weigh, weigh, restart, join, leave)), world),
        )


def usurp(world: World) -> None:
    """A daemon hangs in a load, and loses its record, and its id to another host.

    That host is gone again before the daemon goes on.
    """
    node, random = some(world), world.random
    if node is None or len(world.living) < 2:
        return
    lost_s = random.uniform(0.0, 0.1)
    dies_s = lost_s + random.uniform(1.0, 1.6)
    node.gate.held_up_s = dies_s + random.uniform(0.0, 0.2)
    weigh(world, some(world, node))
    world.scheduler.after(lost_s, partial(_erase, world, node.number))
    world.scheduler.after(lost_s + 0.01, partial(_usurp, world, node, dies_s - lost_s))


def _usurp(world: World, node: Node, for_s: float) -> None:
    usurper = world.add_host(node.number, node.flags)
    world.scheduler.after(for_s, usurper.kill)
    world.scheduler.after(for_s + 0.005, partial(_erase, world, node.number))


def flap(world: World) -> None:
    """Somebody deletes a daemon's record at the moment when it is started again.

    Its kernel is the same.
    """
    node = some(world)
    if node is not None:
        _erase(world, node.number)
        again(
            world,
            node,
            node.flags,
            0.3 * world.random.random(),
            takes_back=world.random.random() < 0.5,
        )
