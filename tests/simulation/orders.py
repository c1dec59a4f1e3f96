"""What an operator does to a cluster, and what becomes of its hosts and processes."""

from __future__ import annotations

from functools import partial

from maglev0.core.view import ACTIVE, DRAINING, FAILING
from tests.simulation.node import SESSION_S, Flags, Left, Node
from tests.simulation.world import World

MOST_HOSTS = 6


def some(world: World, beside: Node | None = None) -> Node | None:
    """Any daemon that is there to stay."""
    living = [node for node in world.living if node is not beside]
    return world.random.choice(living) if living else None


def span_s(world: World, least: float = 0.05, mean: float = 0.6) -> float:
    """A time that is mostly short."""
    return least + world.random.expovariate(1 / mean)


def free_number(world: World) -> int | None:
    """An id that no daemon has."""
    taken = {node.number for node in world.nodes.values() if node.process.alive}
    free = [number for number in range(1, MOST_HOSTS + 1) if number not in taken]
    return world.random.choice(free) if free and len(taken) < MOST_HOSTS - 1 else None


def join(world: World) -> Node | None:
    """A host more; now and then one in a dry run, or one that is told to hold."""
    number, random = free_number(world), world.random
    if number is None:
        return None
    oddity = random.random()
    return world.add_host(
        number, Flags(random.choice((1, 1, 1, 2, 0)), SESSION_S, oddity < 0.05, oddity > 0.96)
    )


def leave(world: World) -> None:
    """A host leaves in order."""
    node = some(world)
    if node is not None and len(world.living) > 1:
        node.leave(world.random.choice((0.2, 1.0, 3.0)))


def restart(world: World, node: Node | None = None) -> Node | None:
    """A daemon is restarted and takes its session back."""
    node = node or some(world)
    if node is not None:
        again(world, node, node.flags, 0.05 * world.random.random())
    return node


def weigh(world: World, node: Node | None = None) -> None:
    """A daemon is restarted with another weight."""
    node = node or some(world)
    if node is not None:
        weight = world.random.choice(
            [weight for weight in (0, 1, 2, 3) if weight != node.flags.weight]
        )
        again(world, node, node.flags._replace(weight=weight), 0.05 * world.random.random())


def adapt(world: World) -> None:
    """A daemon fails or recovers, is drained, undrained or weighed again, sometimes all of them."""
    nodes = world.living if world.random.random() < 0.1 else [some(world)]
    for node in nodes:
        if node is not None:
            node.wish(
                world.random.choice((ACTIVE, ACTIVE, FAILING, FAILING, DRAINING)),
                world.random.choice((1, 1, node.flags.weight, 0, 3)),
            )


def again(
    world: World, node: Node, flags: Flags, after_s: float, *, takes_back: bool = True
) -> None:
    """Kill a daemon, and start it again after a while."""
    left = node.kill()
    world.scheduler.after(
        after_s,
        partial(_start, world, node, flags, left if takes_back and not flags.dry_run else None),
    )


def _start(world: World, node: Node, flags: Flags, left: Left | None) -> None:
    if world.nodes[node.kernel] is node:
        world.start(node.kernel, flags, left)


def kill(world: World) -> None:
    """A daemon is killed, and maybe started again, with its session or without."""
    node = some(world)
    if node is None:
        return
    if world.random.random() < 0.7:
        again(world, node, node.flags, span_s(world), takes_back=world.random.random() < 0.6)
    else:
        node.kill()


def lose_host(world: World) -> None:
    """A host is gone, its kernel and its connections with it."""
    node = some(world)
    if node is not None and len(world.living) > 1:
        node.kill()
        node.kernel.clear()
        if world.random.random() < 0.5:
            world.scheduler.after(span_s(world, 0.3), partial(_replace, world, node.number))


def _replace(world: World, number: int) -> None:
    if all(node.number != number or not node.process.alive for node in world.nodes.values()):
        world.add_host(number)


def second(world: World) -> None:
    """Another host with an id that is in use."""
    node = some(world)
    if node is not None and len(world.nodes) < 2 * MOST_HOSTS:
        world.add_host(node.number)


def stop(world: World) -> None:
    """A process is stopped for a while."""
    node = some(world)
    if node is not None:
        node.process.stop(span_s(world, 0.01, 0.8))


def hang(world: World) -> None:
    """A process's loop stands still, its session does not."""
    node = some(world)
    if node is not None:
        node.process.hang(span_s(world, 0.01, 0.8))


def disturb(world: World) -> None:
    """Somebody flushes the rules, or the clocks jump: the lease is ended."""
    node = some(world)
    if node is not None:
        node.disturb()


def unplug(world: World) -> None:
    """The kernel refuses everything for a while."""
    node = some(world)
    if node is not None:
        node.gate.fails_until = world.scheduler.now + span_s(world)
