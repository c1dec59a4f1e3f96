"""The result of probing: how often and by which nodes each request was answered, and outages.

Pure: imports no I/O.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from maglev0.lab.testbed.addresses import answerer

if TYPE_CHECKING:
    from collections.abc import Iterable


class Exchange(NamedTuple):
    """One request and its answers.

    `sent_s` and `answered_s` are CLOCK_MONOTONIC, the same in all namespaces; `answered_s` is None
    where no complete answer came. `answers` holds the MAC addresses that answered, refusals
    included: once for each node in TCP, once for each packet in UDP and ping.
    """

    protocol: str
    client: str
    sent_s: float
    answered_s: float | None
    answers: tuple[str, ...]

    @property
    def times_answered(self) -> int:
        """The number of answers; 0 for a single one that was not complete."""
        return len(self.answers) if self.answered_s is not None or len(self.answers) > 1 else 0


class Outage(NamedTuple):
    """A series of unanswered requests of one client.

    `since_s` is the sending time of the first. `until_s` is the time of the next answer, None where
    probing ended before it.
    """

    client: str
    since_s: float
    until_s: float | None
    unanswered: int


@dataclass(frozen=True)
class Report:
    """All exchanges of one probing run, in the order of sending."""

    exchanges: tuple[Exchange, ...]

    @property
    def once(self) -> int:
        """Requests answered exactly once."""
        return sum(exchange.times_answered == 1 for exchange in self.exchanges)

    @property
    def twice(self) -> int:
        """Requests answered twice or more."""
        return sum(exchange.times_answered > 1 for exchange in self.exchanges)

    @property
    def never(self) -> int:
        """Requests without a complete answer."""
        return sum(exchange.times_answered == 0 for exchange in self.exchanges)

    @property
    def clean(self) -> bool:
        """Whether there were requests and each was answered exactly once."""
        return self.once == len(self.exchanges) > 0

    @property
    def clients(self) -> int:
        """The number of source addresses."""
        return len({exchange.client for exchange in self.exchanges})

    def shares(self) -> Counter[str]:
        """The number of requests that each node answered, by node name."""
        return Counter(
            answerer(mac)
            for exchange in self.exchanges
            if exchange.times_answered
            for mac in exchange.answers
        )

    def delay_s(self, quantile: float) -> float:
        """The quantile of the time from request to answer, in seconds; 0 without any answer."""
        delays = sorted(
            exchange.answered_s - exchange.sent_s
            for exchange in self.exchanges
            if exchange.answered_s is not None
        )
        return delays[min(len(delays) - 1, int(quantile * len(delays)))] if delays else 0.0

    def outages(self) -> list[Outage]:
        """The outages of every client; those of one client are in order of time."""
        return [
            outage for exchanges in self._by_client().values() for outage in _stretches(exchanges)
        ]

    def _by_client(self) -> dict[str, list[Exchange]]:
        found: dict[str, list[Exchange]] = {}
        for exchange in self.exchanges:
            found.setdefault(exchange.client, []).append(exchange)
        return found

    def summary(self) -> str:
        """One line with the counts."""
        asked = f"{len(self.exchanges)} requests from {self.clients} clients"
        answered = f"answered once {self.once}, twice or more {self.twice}, never {self.never}"
        return f"{asked}: {answered}; slowest after {self.delay_s(1.0):.2f} s"

    def to_json(self) -> str:
        """The report as one line, for `from_json`."""
        return json.dumps([list(exchange) for exchange in self.exchanges])

    @classmethod
    def from_json(cls, line: str) -> Report:
        """The report that `to_json` wrote."""
        return cls(
            tuple(
                Exchange(protocol, client, sent_s, answered_s, tuple(by))
                for protocol, client, sent_s, answered_s, by in json.loads(line)
            )
        )


def _stretches(exchanges: Iterable[Exchange]) -> list[Outage]:
    """The outages in one client's exchanges."""
    found: list[Outage] = []
    lost: list[Exchange] = []
    for exchange in exchanges:
        if exchange.answered_s is None:
            lost.append(exchange)
        elif lost:
            found.append(Outage(exchange.client, lost[0].sent_s, exchange.answered_s, len(lost)))
            lost = []
    return [*found, Outage(lost[0].client, lost[0].sent_s, None, len(lost))] if lost else found
