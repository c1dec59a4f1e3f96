"""What a daemon's log says of the cluster: live members, owners, what the kernel holds; pure."""

from __future__ import annotations

import re
from typing import NamedTuple

# A timestamp, where there is one, stands before each.
_MEMBERS = re.compile(r"(?:^|\s)\[([\d ]*)\]$")
_OWNER = re.compile(r"(backend-\d+)(?: \(me!\))? is responsible for node (\d+)$")
_HELD = re.compile(r"Nodes:\s*(.*)$")


class Picture(NamedTuple):
    """One whole block of a daemon's log.

    `owners` maps bucket to member name and is empty where the log only counts them (above 64 node numbers); `held` is the kernel's line.
    """

    members: tuple[int, ...]
    owners: dict[int, str]
    held: str


def latest(log: str) -> Picture | None:
    """The last block that is whole, that is, ends with what the kernel holds; None before the first."""
    found: Picture | None = None
    members: tuple[int, ...] | None = None
    owners: dict[int, str] = {}
    for line in log.splitlines():
        if match := _MEMBERS.search(line):
            members, owners = tuple(int(number) for number in match[1].split()), {}
        elif match := _OWNER.search(line):
            owners[int(match[2])] = match[1]
        elif (match := _HELD.search(line)) and members is not None:
            found = Picture(members, owners, match[1].strip())
    return found
