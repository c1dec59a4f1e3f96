"""Reads members, bucket owners and kernel state from a daemon's log.

Pure: imports no I/O.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

# A line may start with a timestamp.
_MEMBERS = re.compile(r"(?:^|\s)\[([\d ]*)\]$")
_OWNER = re.compile(r"(backend-\d+)(?: \(me!\))? is responsible for node (\d+)$")
_SHARE = re.compile(r"(backend-\d+)(?: \(me!\))? is responsible for (\d+) nodes \(")
_HELD = re.compile(r"Nodes:\s*(.*)$")
_TAKES_PART = re.compile(r"new connections are accepted again$|joined as backend-")


class Picture(NamedTuple):
    """One whole block of a daemon's log.

    `owners` maps bucket to member name; it is empty above 64 buckets, where the log only counts
    them. `shares` maps member name to its number of buckets. `held` is the text of the line on the
    kernel's buckets.
    """

    members: tuple[int, ...]
    owners: dict[int, str]
    shares: dict[str, int]
    held: str


def latest(log: str) -> Picture | None:
    """The last block that ends with the line on the kernel's buckets; None before the first."""
    found: Picture | None = None
    members: tuple[int, ...] | None = None
    owners: dict[int, str] = {}
    shares: Counter[str] = Counter()
    for line in log.splitlines():
        if match := _MEMBERS.search(line):
            members, owners, shares = (
                tuple(int(number) for number in match[1].split()),
                {},
                Counter(),
            )
        elif match := _OWNER.search(line):
            owners[int(match[2])] = match[1]
            shares[match[1]] += 1
        elif match := _SHARE.search(line):
            shares[match[1]] = int(match[2])
        elif (match := _HELD.search(line)) and members is not None:
            found = Picture(members, owners, dict(shares), match[1].strip())
    return found


def announcements(log: str) -> int:
    """How often the log shows kernel buckets, a join, or that new connections are accepted."""
    return sum(1 for line in log.splitlines() if _HELD.search(line) or _TAKES_PART.search(line))
