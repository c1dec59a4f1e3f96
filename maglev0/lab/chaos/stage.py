"""The cluster under clients as faults see it: who serves, what was done when, when it is quiet."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from maglev0.core import table
from maglev0.lab.chaos.episodes import NOTHING, QUIET, Allowance, Episode, Timeline, crash_gap_s
from maglev0.lab.errors import LabError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from maglev0.lab.testbed.cluster import Lab
    from maglev0.lab.testbed.node import LabNode
    from maglev0.lab.traffic.clients import Clients

# A guard against a run that hangs: the longest waits are a drain and an election by the sample
# settings.
SETTLE_TIMEOUT_S = 60.0
QUIET_S = 1.0
# A request sent just before the end of an episode may still be on its way.
CALM_S = 0.3


@cache
def shares_of(total_nodes: int, weights: tuple[tuple[str, int], ...]) -> dict[str, int]:
    """How many buckets each member has; a table of 65,537 buckets takes 0.1 s to compute."""
    return dict(Counter(table.build(total_nodes, dict(weights))))


@dataclass(frozen=True)
class Choices:
    """What faults would leave to chance or to a default.

    These are the node, its weights, how long a leaving node is used (seconds), and how long
    ZooKeeper is away (seconds).
    """

    target: int | None = None
    weights: tuple[int, ...] = (1, 2, 3)
    drain_use_s: float = 3.0
    away_s: float | None = None


class Trial:
    """What all faults share.

    `serving` are the nodes whose daemon is up and meant to serve, `weights` their start weights.
    """

    def __init__(
        self, cluster: Lab, clients: Clients, rng: random.Random, choices: Choices = Choices()
    ) -> None:
        self.cluster = cluster
        self.clients = clients
        self.rng = rng
        self.choices = choices
        self.serving = set(cluster.live())
        self.weights = dict.fromkeys(cluster.nodes, 1)
        self.episodes: list[Episode] = []
        self.crash_s = crash_gap_s(cluster.settings.session_timeout_s, cluster.settings.tick_ms)
        self.session_s = cluster.settings.session_timeout_s

    @property
    def absent(self) -> set[int]:
        """The nodes whose machine is on and whose daemon is not."""
        return set(self.cluster.nodes) - self.serving

    def node(self, number: int) -> LabNode:
        """A node by its number."""
        return self.cluster.nodes[number]

    def pick(self, among: Iterable[int] | None = None) -> int:
        """One of the nodes, by default of those that serve."""
        candidates = sorted(self.serving if among is None else among)
        return (
            self.choices.target
            if self.choices.target in candidates
            else self.rng.choice(candidates)
        )

    def begin(self, cause: str, allowance: Allowance, note: str = "") -> Episode:
        """Begin an episode: what happens from now on has this cause."""
        episode = Episode(
            cause, time.monotonic_ns(), allowance, sum(self.clients.held().values()), note
        )
        self.episodes.append(episode)
        return episode

    def planned(self) -> Allowance:
        """What a planned change may show: no break, and no gap longer than a crash causes."""
        return Allowance(self.crash_s)

    def crash(self, *nodes: int, breaks: Iterable[int] = ()) -> Allowance:
        """What a crash of nodes may show."""
        return Allowance(
            self.crash_s, planned=False, nodes=frozenset(nodes), breaks=frozenset(breaks)
        )

    def start(self, number: int) -> None:
        """Start a node's daemon with its weight."""
        weight = self.weights[number]
        self.node(number).start_daemon(*(() if weight == 1 else (f"--weight={weight}",)))
        self.serving.add(number)

    def settle(self, without: Iterable[int] = ()) -> None:
        """Wait until all serving nodes except `without` agree and every request is answered."""
        members = self.serving - set(without)
        weights = tuple((f"backend-{number}", self.weights[number]) for number in sorted(members))
        self.cluster.settle(
            members, SETTLE_TIMEOUT_S, shares_of(self.cluster.settings.total_nodes, weights)
        )
        self.clients.wait_served(SETTLE_TIMEOUT_S)
        time.sleep(CALM_S)

    def settle_after(self, number: int, announced: int) -> None:
        """Wait until a node has logged again what it serves, and until all agree.

        Before, it had logged that `announced` times.
        """
        self.node(number).wait_announcements(announced + 1, SETTLE_TIMEOUT_S)
        self.settle()

    def quiet(self) -> None:
        """Do nothing for a while: every request has to be answered exactly once."""
        self.begin(QUIET, NOTHING)
        time.sleep(QUIET_S)

    def timeline(self) -> Timeline:
        """All that was done until now."""
        if not self.episodes:
            raise LabError("nothing was done that could be judged")
        return Timeline(self.episodes, time.monotonic_ns())
