"""What a daemon's log says of the cluster: live members, owners, what the kernel holds.

Pure: imports no I/O.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

# A timestamp, where there is one, stands before each.
_MEMBERS = re.compile(r"(?:^|\s)\[([\d ]*)\]$")
_OWNER = re.compile(r"(backend-\d+)(?: \(me!\))? is responsible for node (\d+)$")
_SHARE = re.compile(r"(backend-\d+)(?: \(me!\))? is responsible for (\d+) nodes \(")
_HELD = re.compile(r"Nodes:\s*(.*)$")
_TAKES_PART = re.compile(r"new connections are accepted again$|joined as backend-")


class Picture(NamedTuple):
    """One whole block of a daemon's log.

    `owners` maps bucket to member name and is empty where the log only counts them (above 64 node numbers); `shares` maps member name to
    its number of buckets; `held` is what the kernel's line says.
    """

    members: tuple[int, ...]
    owners: dict[int, str]
    shares: dict[str, int]
    held: str


def latest(log: str) -> Picture | None:
    """The last block that is whole, that is, ends with what the kernel holds; None before the first."""
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
    """How often it was said what is served, or that a part is taken again in what is the same as before."""
    return sum(1 for line in log.splitlines() if _HELD.search(line) or _TAKES_PART.search(line))
