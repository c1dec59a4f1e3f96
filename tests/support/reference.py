"""The Maglev table as the paper's pseudo-code says it: slow and obvious."""

from __future__ import annotations

import hashlib
import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def offset_and_skip(name: str, size: int) -> tuple[int, int]:
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    if size == 1:
        return 0, 1
    offset = int.from_bytes(digest[0:8], "big") % size
    skip = int.from_bytes(digest[8:16], "big") % (size - 1) + 1
    while math.gcd(skip, size) > 1:
        skip += 1
        if skip > size:
            skip = 1
    return offset, skip


def turns(weights: Mapping[str, int]) -> Iterator[str]:
    """The members in the order of their turns, round after round.

    A member has a turn when it has had fewer than its weight is worth by then, rounded to the
    nearest number.
    """
    heaviest = max(weights.values())
    had = dict.fromkeys(weights, 0)
    for rounds in itertools.count(1):
        for name in sorted(weights):
            worth = (2 * rounds * weights[name] + heaviest) // (2 * heaviest)
            if had[name] < worth:
                had[name] += 1
                yield name


def build(size: int, weights: Mapping[str, int]) -> tuple[str, ...]:
    members = {name: weight for name, weight in weights.items() if weight > 0}
    at = {name: offset_and_skip(name, size)[0] for name in members}
    skip = {name: offset_and_skip(name, size)[1] for name in members}
    table: list[str | None] = [None] * size
    for name in itertools.islice(turns(members), size):
        while table[at[name]] is not None:
            at[name] = (at[name] + skip[name]) % size
        table[at[name]] = name
    return tuple(owner for owner in table if owner is not None)
