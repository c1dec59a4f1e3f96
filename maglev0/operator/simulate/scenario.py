"""What joins, leaves and weights do to the table: a scenario, read from words, and what it would move.

Pure: imports no I/O.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from maglev0.core import table
from maglev0.core.view import MAX_ID, MAX_MEMBERS, MAX_WEIGHT, name_of
from maglev0.errors import ConfigError

MAX_EVENTS = 100  # a table of them can still be read
MAX_SIZES = 8
MAX_EVENT_TEXT = 24  # characters of an event that are shown of it
_BUILD_S = 2e-6  # what a bucket takes in the largest table of the most members: 1.7 µs, and somewhat more for comparing

Weights = Mapping[int, int]  # by member id; a weight of 0 is a member that owns nothing

_ITEM = re.compile(r"(?P<first>[0-9]{1,7})(-(?P<last>[0-9]{1,7}))?(:(?P<weight>[0-9]{1,4}))?")


class ChangeKind(enum.StrEnum):
    """What happens to members; the value is the sign that an event begins with."""

    JOIN = "+"
    LEAVE = "-"
    WEIGH = ""


class Change(NamedTuple):
    """One change of the view; `members` are those concerned, with their weights after it (none where they leave)."""

    kind: ChangeKind
    members: Weights
    text: str

    @property
    def words(self) -> str:
        """The event as a sentence without its full stop."""
        if len(self.members) > 1:
            who, doing = f"{len(self.members)} members", ("join", "leave", "change their weights")
        else:
            (one, weight) = next(iter(self.members.items()))
            who, doing = (
                name_of(one),
                (
                    "joins" if weight == 1 else f"joins with weight {weight}",
                    "leaves",
                    f"changes its weight to {weight}",
                ),
            )
        return f"{who} {doing[tuple(ChangeKind).index(self.kind)]}"


@dataclass(frozen=True)
class Scenario:
    """Tables of these sizes, a cluster's first members, and what happens to them in this order; made by `scenario` alone, which checks it."""

    sizes: tuple[int, ...]
    members: Weights
    events: tuple[Change, ...]

    @property
    def views(self) -> Iterator[tuple[Change | None, Weights]]:
        """The members at the start and after each event."""
        weights = self.members
        yield None, weights
        for event in self.events:
            weights = after(event, weights)
            yield event, weights

    @property
    def tables(self) -> int:
        """How many tables it takes."""
        return len(self.sizes) * (len(self.events) + 1)

    @property
    def takes_s(self) -> float:
        """How long working it out takes at most, in seconds, about."""
        return _BUILD_S * sum(self.sizes) * (len(self.events) + 1)


class BucketFlow(NamedTuple):
    """What buckets have in common that had one owner and have another now, or the same."""

    before: int
    after: int


class Balance(NamedTuple):
    """The largest and the smallest share, each as a multiple of what its owner's weight makes fair."""

    largest: float
    smallest: float


class Movement(NamedTuple):
    """How many buckets changed their owner, and the two kinds of them.

    `necessary` moved away from a member that left or weighs less now, or to one that joined or weighs more. `disruption` is the rest: buckets
    between members that have nothing to do with the change (section 5.3 of the Maglev paper).
    """

    moved: int
    necessary: int
    disruption: int


@dataclass(frozen=True)
class ScenarioStep:
    """One view of a scenario in a table of one size.

    `owners` has the owner's id for each bucket, and so has `before` for the view before (`None`: this is the first); `flows` counts the
    buckets of each pair of them.
    """

    size: int
    number: int
    event: Change | None
    former: Weights
    weights: Weights
    before: Sequence[int] | None
    owners: Sequence[int]
    flows: Mapping[BucketFlow, int]

    @property
    def shares(self) -> dict[int, int]:
        """How many buckets each member owns."""
        counts = dict.fromkeys(self.weights, 0)
        for flow, count in self.flows.items():
            counts[flow.after] += count
        return counts

    @property
    def former_shares(self) -> dict[int, int]:
        """How many buckets each member of the view before owned."""
        counts = dict.fromkeys(self.former, 0)
        for flow, count in self.flows.items():
            counts[flow.before] += count
        return counts

    @property
    def balance(self) -> Balance:
        """How even the shares are, beside those of weight 0."""
        shares = self.shares
        relative = [
            shares[member] / part for member, part in fair(self.size, self.weights).items() if part
        ]
        return Balance(max(relative), min(relative))

    @property
    def movement(self) -> Movement:
        """What moved since the view before; nothing in the first."""
        moves = {flow: count for flow, count in self.flows.items() if flow.before != flow.after}
        necessary = sum(
            count
            for flow, count in moves.items()
            if self._gives_up(flow.before) or self._takes_more(flow.after)
        )
        moved = sum(moves.values())
        return Movement(moved, necessary, moved - necessary)

    def _gives_up(self, member: int) -> bool:
        return self.weights.get(member, 0) < self.former[member]

    def _takes_more(self, member: int) -> bool:
        return self.weights[member] > self.former.get(member, 0)


def fair(size: int, weights: Weights) -> dict[int, float]:
    """How many buckets would be each member's share if buckets could be split."""
    total = sum(weights.values())
    return {member: size * weight / total for member, weight in weights.items()}


def evaluate(asked: Scenario) -> Iterator[ScenarioStep]:
    """Work out one step after the other, size by size; each table takes up to 2 µs for a bucket of it."""
    for size in asked.sizes:
        former, before = asked.members, None
        for number, (event, weights) in enumerate(asked.views):
            owners = _owners(size, weights)
            pairs = Counter(zip(owners if before is None else before, owners, strict=True))
            yield ScenarioStep(
                size,
                number,
                event,
                former,
                weights,
                before,
                owners,
                {BucketFlow(*pair): count for pair, count in pairs.items()},
            )
            former, before = weights, owners


def _owners(size: int, weights: Weights) -> tuple[int, ...]:
    ids = {name_of(member): member for member in weights}
    return tuple(
        map(
            ids.__getitem__,
            table.build(size, {name: weights[member] for name, member in ids.items()}),
        )
    )


def after(event: Change, weights: Weights) -> Weights:
    """The members after an event. Raises ConfigError where it cannot happen."""
    wrong = next(
        (
            member
            for member in event.members
            if (member in weights) is (event.kind is ChangeKind.JOIN)
        ),
        None,
    )
    if wrong is not None:
        raise ConfigError(
            f"{shown(event.text)}: {name_of(wrong)} is {'a member already' if event.kind is ChangeKind.JOIN else 'no member then'}"
        )
    left = {
        member: weight
        for member, weight in weights.items()
        if event.kind is not ChangeKind.LEAVE or member not in event.members
    }
    found = left if event.kind is ChangeKind.LEAVE else {**left, **event.members}
    _check_members(shown(event.text), found)
    return dict(sorted(found.items()))


def scenario(sizes: Iterable[int], members: Weights, events: Iterable[Change]) -> Scenario:
    """Check a scenario as a whole. Raises ConfigError, naming the part of it that cannot be."""
    made = Scenario(tuple(dict.fromkeys(sizes)), dict(sorted(members.items())), tuple(events))
    if len(made.sizes) > MAX_SIZES:
        raise ConfigError(
            f"{len(made.sizes)} times --total-nodes: at most {MAX_SIZES} sizes can be compared"
        )
    if len(made.events) > MAX_EVENTS:
        raise ConfigError(f"{len(made.events)} events: at most {MAX_EVENTS} are allowed")
    _check_members("--members", made.members)
    highest = max(max(weights) for _event, weights in made.views)
    if highest > min(made.sizes):
        raise ConfigError(
            f"--total-nodes={min(made.sizes)}: {name_of(highest)} cannot take part, for ids go from 1 to total-nodes"
        )
    return made


def _check_members(where: str, weights: Weights) -> None:
    if len(weights) > MAX_MEMBERS:
        raise ConfigError(
            f"{where}: that makes {len(weights)} members, at most {MAX_MEMBERS} are allowed"
        )
    if not any(weights.values()):
        raise ConfigError(f"{where}: no member with a weight above 0 is left")


def last_leaves(members: Weights) -> tuple[Change, ...]:
    """What is worth asking when nobody says what: the last member leaves; nothing where no other could take over."""
    last = max(members)
    if not any(weight for member, weight in members.items() if member != last):
        return ()
    return (Change(ChangeKind.LEAVE, {last: 0}, f"-{last}"),)


def parse_size(text: str) -> int:
    """Read a size of the table. Raises ConfigError."""
    if not (re.fullmatch(r"[0-9]{1,7}", text) and 1 <= int(text) <= table.MAX_SIZE):
        raise ConfigError(
            f"--total-nodes={shown(text)}: allowed are the whole numbers from 1 to {table.MAX_SIZE}"
        )
    return int(text)


def parse_members(text: str) -> Weights:
    """Read members as `1-4:2,7`: ids and ranges of them, each with a weight behind a colon unless that is 1. Raises ConfigError."""
    return {
        member: 1 if weight is None else weight
        for member, weight in _listed(f"--members={shown(text)}", text)
    }


def parse_event(text: str) -> Change:
    """Read an event: `+5` or `+5:2` joins, `-5` leaves, `5:2` gets another weight, each for lists and ranges, too. Raises ConfigError."""
    kind = next(kind for kind in ChangeKind if text.startswith(kind))
    where = shown(text)
    found = dict(_listed(where, text.removeprefix(kind)))
    if kind is ChangeKind.LEAVE and any(weight is not None for weight in found.values()):
        raise ConfigError(f"{where}: who leaves has no weight; -5 leaves, 5:2 changes a weight")
    if kind is ChangeKind.WEIGH and None in found.values():
        raise ConfigError(f"{where}: what happens to it? +5 joins, -5 leaves, 5:2 changes a weight")
    default = 0 if kind is ChangeKind.LEAVE else 1
    return Change(
        kind,
        {member: default if weight is None else weight for member, weight in sorted(found.items())},
        text,
    )


def _listed(where: str, text: str) -> Iterator[tuple[int, int | None]]:
    """The members of a list with their weights, as far as it has any; ConfigError names `where` it is wrong."""
    seen: set[int] = set()
    for item in text.split(","):
        first, last, weight = _item(where, item)
        if last - first >= MAX_MEMBERS:
            raise ConfigError(f"{where}: {item} is more than {MAX_MEMBERS} members")
        for member in range(first, last + 1):
            if member in seen:
                raise ConfigError(f"{where}: {name_of(member)} is named twice")
            seen.add(member)
            yield member, weight


def _item(where: str, item: str) -> tuple[int, int, int | None]:
    found = _ITEM.fullmatch(item)
    if found is None:
        raise ConfigError(
            f"{where}: allowed are ids and ranges with weights, as 1-4:2,7; maglev0 simulate --help has examples"
        )
    first = int(found["first"])
    last = int(found["last"] or first)
    weight = None if found["weight"] is None else int(found["weight"])
    if not 1 <= first <= last <= MAX_ID:
        raise ConfigError(f"{where}: ids go from 1 to {MAX_ID}, and ranges upwards")
    if weight is not None and weight > MAX_WEIGHT:
        raise ConfigError(f"{where}: weights go from 0 to {MAX_WEIGHT}")
    return first, last, weight


def shown(text: str) -> str:
    """A text of the command line as it may stand in a message and in a table."""
    plain = text if text.isprintable() else ascii(text)
    return plain if len(plain) <= MAX_EVENT_TEXT else f"{plain[: MAX_EVENT_TEXT - 1]}…"
