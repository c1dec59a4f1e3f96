"""Member records and the view, read from untrusted data in ZooKeeper.

Pure: imports no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from maglev0.core.service import HashFamily
from maglev0.core.settings import (
    FORMAT,
    MAX_TOTAL_NODES,
    read_choice,
    read_format,
    read_int,
    read_object,
    read_text,
)

MAX_MEMBER_BYTES = 4096  # a record is some 300 bytes
MAX_MEMBERS = 1024  # the largest cluster that the table is measured for
MAX_CANDIDATES = 4 * MAX_MEMBERS  # children that are read to find them
NO_CANDIDATE = f"not a member id, or not among the {MAX_CANDIDATES:,} lowest ids"
"""Why a child of the parent znode is ignored without a look at what it holds."""
MAX_WEIGHT = 1000
MAX_SESSION_TIMEOUT_S = 3600.0
# Far beyond any clock, yet finite, so that no number in JSON overflows a float.
MAX_START_TIME_S = 1e12
MAX_ID = max(MAX_TOTAL_NODES.values())
_NAME = "backend-"
ACTIVE = "active"
DRAINING = "draining"
FAILING = "failing"  # its health checks fail
DRY_RUN = "dry-run"


@dataclass(frozen=True)
class Member:
    """One node's record.

    `start_time` is in seconds since the epoch; `address` and `mac` are those of its traffic
    interface, or empty.
    """

    id: int
    host: str
    pid: int
    start_time: float
    address: str
    mac: str
    dataplane: HashFamily
    weight: int
    state: str
    session_timeout_s: float
    format: int = FORMAT

    @property
    def name(self) -> str:
        """The name that the table hashes and the log prints."""
        return name_of(self.id)

    def encode(self) -> bytes:
        """The znode's data, JSON."""
        # No escapes, which could take a record with long names beyond the bound.
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()


class ViewId(NamedTuple):
    """The parent znode's place in ZooKeeper's order of changes.

    Two reads with the same identity saw the same members.
    """

    czxid: int
    cversion: int
    version: int


@dataclass(frozen=True)
class View:
    """The members at one point in ZooKeeper's order of changes, sorted by id.

    `children` names every child of the parent, members or not, with the zxid of its creation (0
    where it was not read).
    """

    id: ViewId
    members: tuple[Member, ...]
    children: frozenset[tuple[str, int]] = frozenset()

    def gone(self, later: View) -> tuple[Member, ...]:
        """The members that a later view does not have, or has by the record of a later life."""
        living = {name for name, _czxid in self.children & later.children} & {
            str(member.id) for member in later.members
        }
        return tuple(member for member in self.members if str(member.id) not in living)

    def follows(self, earlier: View) -> bool:
        """Whether the two views differ only by what the later one shows.

        If so, nobody came and went in between.
        """
        same_parent = self.id.czxid == earlier.id.czxid
        return same_parent and self.id.cversion - earlier.id.cversion == len(
            self.children ^ earlier.children
        )

    def weights(self, *, dry_run: bool) -> dict[str, int]:
        """The weights that the table is built from: one of each member that serves.

        A node in a dry run counts only for other nodes in a dry run: the cluster must not give
        buckets to a node that answers nothing. Where every member that would serve is failing, all
        of them serve: a bad answer is better than none.
        """
        return self._weights((ACTIVE, DRY_RUN) if dry_run else (ACTIVE,)) or self._weights(
            (FAILING,)
        )

    @property
    def fails_altogether(self) -> bool:
        """Whether every member that would serve is failing."""
        return not self._weights((ACTIVE,)) and bool(self._weights((FAILING,)))

    def _weights(self, states: tuple[str, ...]) -> dict[str, int]:
        return {
            member.name: member.weight
            for member in self.members
            if member.state in states and member.weight > 0
        }


class Child(NamedTuple):
    """A child of the parent znode, as read.

    `owner` is its ephemeral owner (0 = persistent), `mzxid` its last change, `ours` as in
    `ports.zookeeper.Znode`.
    """

    name: str
    data: bytes
    owner: int
    mzxid: int
    ours: bool = True


class Ignored(NamedTuple):
    """A child that is no member, and why; `mzxid` tells a new fault from one already reported."""

    name: str
    mzxid: int
    reason: str


def name_of(member_id: int) -> str:
    """A member's name."""
    return f"{_NAME}{member_id}"


def id_of(name: str) -> int:
    """The id of the member that has such a name."""
    return int(name.removeprefix(_NAME))


def candidate_ids(names: Iterable[str], total_nodes: int) -> tuple[list[str], list[str]]:
    """The children worth reading, and those that are no member whatever they hold.

    The name of a member is its id in plain decimal. Beyond `MAX_CANDIDATES` every node reads the
    lowest ids.
    """
    plain: list[str] = []
    foreign: list[str] = []
    for name in names:
        is_id = (
            name.isascii()
            and name.isdecimal()
            and not name.startswith("0")
            and len(name) <= 7
            and int(name) <= total_nodes
        )
        (plain if is_id else foreign).append(name)
    plain.sort(key=int)
    return plain[:MAX_CANDIDATES], sorted(foreign) + plain[MAX_CANDIDATES:]


def read_members(children: Iterable[Child]) -> tuple[tuple[Member, ...], tuple[Ignored, ...]]:
    """Divide what was read into members (by id) and ignored children; no data makes this raise."""
    members: list[Member] = []
    ignored: list[Ignored] = []
    for child in children:
        try:
            members.append(_member(child))
        except ValueError as error:
            ignored.append(Ignored(child.name, child.mzxid, str(error)))
    members.sort(key=lambda member: member.id)
    ignored += [
        Ignored(str(member.id), 0, f"{MAX_MEMBERS} members of lower ids are there")
        for member in members[MAX_MEMBERS:]
    ]
    return tuple(members[:MAX_MEMBERS]), tuple(ignored)


def _member(child: Child) -> Member:
    if not child.ours:
        raise ValueError("others than this cluster may change it: its ACL is not the cluster's")
    if not child.owner:
        raise ValueError("it is not ephemeral, so no daemon holds it")
    return decode(child.name, child.data)


def decode(name: str, data: bytes) -> Member:
    """Read the record of the member called `name`; ValueError says what is wrong with it."""
    if len(data) > MAX_MEMBER_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_MEMBER_BYTES} are allowed")
    record = read_object(data)
    read_format(record)
    member_id = read_int(record, "id", 1, MAX_ID)
    # As texts: int() would take " 7", "07" and "٧" for a second member 7.
    if name != str(member_id):
        raise ValueError(f"its record names id {member_id}")
    state = read_text(record, "state", 32)
    if state not in (ACTIVE, DRAINING, FAILING, DRY_RUN):
        raise ValueError(f"unknown state {state}")
    return Member(
        id=member_id,
        host=read_text(record, "host"),
        pid=read_int(record, "pid", 1, 1 << 22),
        start_time=_seconds(record, "start_time", MAX_START_TIME_S),
        address=read_text(record, "address"),
        mac=read_text(record, "mac"),
        dataplane=read_choice(record, "dataplane", HashFamily),
        weight=read_int(record, "weight", 0, MAX_WEIGHT),
        state=state,
        session_timeout_s=_seconds(record, "session_timeout_s", MAX_SESSION_TIMEOUT_S),
    )


def _seconds(record: dict[str, Any], key: str, most: float) -> float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{key} is not a number of seconds")
    return float(value)
