"""Computes what joins, leaves and weights move in the table, for a scenario read from words. Pure.

It imports no I/O.
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

MAX_EVENTS = 100  # a table with more rows is hard to read
MAX_SIZES = 8
MAX_EVENT_TEXT = 24  # characters of an event that are shown
# Per bucket, in the largest table with the most members: 1.7 µs, and somewhat more to compare.
_BUILD_S = 2e-6

Weights = Mapping[int, int]  # by member id; a member with weight 0 owns no bucket

_ITEM = re.compile(r"(?P<first>[0-9]{1,7})(-(?P<last>[0-9]{1,7}))?(:(?P<weight>[0-9]{1,4}))?")


class ChangeKind(enum.StrEnum):
    """What happens to members; the value is the sign with which an event begins."""

    JOIN = "+"
    LEAVE = "-"
    WEIGH = ""


class Change(NamedTuple):
    """One change of the view.

    `members` are those concerned, with their weights after it; 0 for those that leave.
    """

    kind: ChangeKind
    members: Weights
    text: str

    @property
    def words(self) -> str:
        """The event as a sentence without a full stop."""
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
    """Table sizes, the members at the start, and the events in their order.

    Only `scenario` makes one, and checks it.
    """

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
        """The number of tables to compute."""
        return len(self.sizes) * (len(self.events) + 1)

    @property
    def takes_s(self) -> float:
        """About how long the computation takes at most, in seconds."""
        return _BUILD_S * sum(self.sizes) * (len(self.events) + 1)


class BucketFlow(NamedTuple):
    """A former and a present owner of a bucket; they may be the same."""

    before: int
    after: int


class Balance(NamedTuple):
    """The largest and the smallest share, each as a multiple of the fair share."""

    largest: float
    smallest: float


class Movement(NamedTuple):
    """How many buckets changed their owner, in all and by kind.

    `necessary` moved away from a member that left or lost weight, or to a member that joined or
    gained weight. `disruption` is the rest: buckets that moved between members that the change does
    not concern (section 5.3 of the Maglev paper).
    """

    moved: int
    necessary: int
    disruption: int


@dataclass(frozen=True)
class ScenarioStep:
    """One view of a scenario in a table of one size.

    `owners` has the owner's id for each bucket, and `before` the same for the view before (None:
    this is the first). `flows` counts the buckets of each pair of former and present owner.
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
        """How even the shares are; members with weight 0 do not count."""
        shares = self.shares
        relative = [
            shares[member] / part for member, part in fair(self.size, self.weights).items() if part
        ]
        return Balance(max(relative), min(relative))

    @property
    def movement(self) -> Movement:
        """What moved since the view before; nothing in the first view."""
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
    """Each member's fair share in buckets, which need not be whole."""
    total = sum(weights.values())
    return {member: size * weight / total for member, weight in weights.items()}


def evaluate(asked: Scenario) -> Iterator[ScenarioStep]:
    """Compute the steps in order, size by size; a table takes up to 2 µs per bucket."""
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
    """The members after an event. Raises ConfigError if it cannot happen."""
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
            f"{shown(event.text)}: {name_of(wrong)} is"
            f" {'already a member' if event.kind is ChangeKind.JOIN else 'not a member then'}"
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
    """Make a scenario and check it. Raises ConfigError that names the wrong part."""
    made = Scenario(tuple(dict.fromkeys(sizes)), dict(sorted(members.items())), tuple(events))
    if len(made.sizes) > MAX_SIZES:
        raise ConfigError(
            f"{len(made.sizes)} times --total-nodes; at most {MAX_SIZES} sizes are allowed"
        )
    if len(made.events) > MAX_EVENTS:
        raise ConfigError(f"{len(made.events)} events; at most {MAX_EVENTS} are allowed")
    _check_members("--members", made.members)
    highest = max(max(weights) for _event, weights in made.views)
    if highest > min(made.sizes):
        raise ConfigError(
            f"--total-nodes={min(made.sizes)}: {name_of(highest)} cannot take part, because ids go"
            " from 1 to total-nodes"
        )
    return made


def _check_members(where: str, weights: Weights) -> None:
    if len(weights) > MAX_MEMBERS:
        raise ConfigError(
            f"{where}: this makes {len(weights)} members; at most {MAX_MEMBERS} are allowed"
        )
    if not any(weights.values()):
        raise ConfigError(f"{where}: no member has a weight above 0")


def last_leaves(members: Weights) -> tuple[Change, ...]:
    """The default event: the last member leaves; none if no other member could take over."""
    last = max(members)
    if not any(weight for member, weight in members.items() if member != last):
        return ()
    return (Change(ChangeKind.LEAVE, {last: 0}, f"-{last}"),)


def parse_size(text: str) -> int:
    """Read a size of the table. Raises ConfigError."""
    if not (re.fullmatch(r"[0-9]{1,7}", text) and 1 <= int(text) <= table.MAX_SIZE):
        raise ConfigError(
            f"--total-nodes={shown(text)}: must be a whole number from 1 to {table.MAX_SIZE}"
        )
    return int(text)


def parse_members(text: str) -> Weights:
    """Read members such as `1-4:2,7`: ids and ranges, each with `:WEIGHT` if that is not 1.

    Raises ConfigError.
    """
    return {
        member: 1 if weight is None else weight
        for member, weight in _listed(f"--members={shown(text)}", text)
    }


def parse_event(text: str) -> Change:
    """Read an event: `+5` or `+5:2` joins, `-5` leaves, `5:2` changes a weight.

    Each takes lists and ranges, too. Raises ConfigError.
    """
    kind = next(kind for kind in ChangeKind if text.startswith(kind))
    where = shown(text)
    found = dict(_listed(where, text.removeprefix(kind)))
    if kind is ChangeKind.LEAVE and any(weight is not None for weight in found.values()):
        raise ConfigError(f"{where}: a leave has no weight; -5 leaves, 5:2 changes a weight")
    if kind is ChangeKind.WEIGH and None in found.values():
        raise ConfigError(f"{where}: not an event; +5 joins, -5 leaves, 5:2 changes a weight")
    default = 0 if kind is ChangeKind.LEAVE else 1
    return Change(
        kind,
        {member: default if weight is None else weight for member, weight in sorted(found.items())},
        text,
    )


def _listed(where: str, text: str) -> Iterator[tuple[int, int | None]]:
    """The members of a list with their weights, if given; ConfigError names `where` it is."""
    seen: set[int] = set()
    for item in text.split(","):
        first, last, weight = _item(where, item)
        if last - first >= MAX_MEMBERS:
            raise ConfigError(f"{where}: {item} is more than {MAX_MEMBERS} members")
        for member in range(first, last + 1):
            if member in seen:
                raise ConfigError(f"{where}: {name_of(member)} appears twice")
            seen.add(member)
            yield member, weight


def _item(where: str, item: str) -> tuple[int, int, int | None]:
    found = _ITEM.fullmatch(item)
    if found is None:
        raise ConfigError(
            f"{where}: must be ids and ranges with weights, such as 1-4:2,7;"
            " maglev0 simulate --help has examples"
        )
    first = int(found["first"])
    last = int(found["last"] or first)
    weight = None if found["weight"] is None else int(found["weight"])
    if not 1 <= first <= last <= MAX_ID:
        raise ConfigError(f"{where}: ids go from 1 to {MAX_ID}, and ranges go upwards")
    if weight is not None and weight > MAX_WEIGHT:
        raise ConfigError(f"{where}: weights go from 0 to {MAX_WEIGHT}")
    return first, last, weight


def shown(text: str) -> str:
    """A text of the command line, printable and shortened for a message or a table."""
    plain = text if text.isprintable() else ascii(text)
    return plain if len(plain) <= MAX_EVENT_TEXT else f"{plain[: MAX_EVENT_TEXT - 1]}…"
