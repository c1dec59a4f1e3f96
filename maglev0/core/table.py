"""The Maglev table: which member owns each bucket.

Pure: imports no I/O.

Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016,
section 3.4.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import chain, cycle, filterfalse, islice, repeat
from math import gcd, isqrt
from operator import mod
from typing import TYPE_CHECKING, NamedTuple

from maglev0.core.steps import finished

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from maglev0.core.steps import Steps

# The largest --total-nodes: the kernel still loads so many buckets in a second or two.
MAX_SIZE = 1 << 20


def build(size: int, weights: Mapping[str, int]) -> tuple[str, ...]:
    """Give each of `size` buckets to one of the members.

    Place j of the result is bucket j+1; the value there is the name of the member that owns it.
    `weights` are the members' turns in proportion to each other: with equal weights the members'
    shares differ by at most one bucket, a weight of 0 owns nothing. The same size, names and
    weights give the same table on every machine and in every run, in whatever order the members
    come.

    Raises ValueError when the size is not within 1..MAX_SIZE, a weight is negative, a name is
    empty, or no member has a positive weight.
    """
    return finished(building(size, weights))


def building(size: int, weights: Mapping[str, int]) -> Steps[tuple[str, ...]]:
    """Do the same as `build` in steps of about a millisecond or less."""
    _check(size, weights)
    members = {name: weight for name, weight in sorted(weights.items()) if weight}
    turns = yield from _turns(size, members)
    permutations = {name: _permutation(name, size) for name in members}
    table = [_FREE] * size
    # The last free places take most of the probes: about size/k for each claim while k are free.
    # Below the root of the size it is cheaper to look at all that are left than to walk on until
    # one is met. A look costs about twice as much as a step, hence the half.
    few = isqrt(size // 2)
    yield from _claim_walking(table, permutations, turns, few)
    yield from _claim_looking(table, permutations, islice(turns, few))
    return tuple(table)


def _check(size: int, weights: Mapping[str, int]) -> None:
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"table size {size}: must be within 1..{MAX_SIZE}")
    for name, weight in weights.items():
        if not name:
            raise ValueError("a member without a name")
        if weight < 0:
            raise ValueError(f"weight {weight} of {name}: must not be negative")
    if not any(weights.values()):
        raise ValueError("no member with a positive weight")


_STEP = 4096  # places that one step asks for, about: some 0.1 µs each
_FREE = ""  # the owner of a place before it is claimed: the one string that is false


class _Permutation(NamedTuple):
    """The order in which one member wants the places of the table.

    It is offset, offset + skip, offset + 2 skip, … modulo size.
    """

    size: int
    offset: int
    skip: int  # coprime to size, so that the walk meets every place once

    def places(self) -> Iterator[int]:
        return map(
            mod,
            range(self.offset, self.offset + self.size * self.skip, self.skip),
            repeat(self.size),
        )

    def first(self, places: Iterable[int]) -> int:
        """The one of these places that comes first in the order."""
        inverse = pow(self.skip, -1, self.size)
        return min(places, key=lambda place: (place - self.offset) * inverse % self.size)


def _permutation(name: str, size: int) -> _Permutation:
    # Two hashes of 64 bits, independent of each other.
    digest = blake2b(name.encode(), digest_size=16).digest()
    offset = int.from_bytes(digest[:8], "big") % size
    skip = int.from_bytes(digest[8:], "big") % max(size - 1, 1) + 1
    # The paper wants a prime size. Here any size will do: 1 ends the search at the latest.
    while gcd(skip, size) != 1:
        skip = skip % size + 1
    return _Permutation(size, offset, skip)


def _turns(size: int, weights: Mapping[str, int]) -> Steps[Iterator[str]]:
    """The members in the order of their turns, without end.

    In each round the heaviest member has one turn; after r rounds a member of weight w has had r *
    w / heaviest turns, rounded to the nearest number. The schedule repeats as soon as that is whole
    for all, so one period is written down, or the part of it that fills the table.
    """
    heaviest, total = max(weights.values()), sum(weights.values())
    rounds = min(heaviest // gcd(*weights.values()), (size + len(weights)) * heaviest // total + 1)
    calendar: list[list[str]] = [[] for _ in range(rounds)]
    for name, weight in weights.items():
        # Turn i = 0, 1, … is due when r * weight / heaviest passes i + 1/2.
        for due in range(heaviest - 1, 2 * weight * rounds, 2 * heaviest):
            calendar[due // (2 * weight)].append(name)
        yield
    return cycle(chain.from_iterable(calendar))


def _claim_walking(
    table: list[str], permutations: Mapping[str, _Permutation], turns: Iterator[str], few: int
) -> Steps[None]:
    """In each turn, walk on in the member's order to the next free place, until few are free."""
    # No Python code runs per probe: filterfalse asks the live table.
    free_places = {
        name: filterfalse(table.__getitem__, permutation.places())
        for name, permutation in permutations.items()
    }
    free = size = len(table)
    while free > few:
        claims = min(free - few, free * _STEP // size + 1)  # a claim takes about size / free probes
        for name in islice(turns, claims):
            table[next(free_places[name])] = name
        free -= claims
        yield


def _claim_looking(
    table: list[str], permutations: Mapping[str, _Permutation], turns: Iterable[str]
) -> Steps[None]:
    """In each turn, find the free place that the walk of the member would meet first."""
    # What the member passed on its walk is taken, so the first free place in its whole order is
    # also the next one.
    free: set[int] = set()
    for start in range(0, len(table), _STEP):
        free.update(filterfalse(table.__getitem__, range(start, min(start + _STEP, len(table)))))
        yield
    for name in turns:
        place = permutations[name].first(free)
        table[place] = name
        free.remove(place)
        yield
