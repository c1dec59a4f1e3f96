"""What a member publishes about itself for people: its report, and the buckets of its kernel.

Pure: imports no I/O. Nothing that decides about ownership reads it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any

from maglev0.core.settings import (
    FORMAT,
    MAX_TOTAL_NODES,
    read_bool,
    read_format,
    read_int,
    read_object,
    read_text,
)
from maglev0.core.view import (
    MAX_ID,
    MAX_MEMBERS,
    MAX_START_TIME_S,
    MAX_WEIGHT,
    ViewId,
    candidate_ids,
)

# Some 600 bytes, and 12 for each member of the view before; problems in no Latin script take 12
# bytes a character.
MAX_REPORT_BYTES = 1 << 17
MAX_REASONS = 16
MAX_LEASE_S = 3600.0
MAX_PAUSE_S = 3600.0
STALE_S = 15.0  # a report of this age says nothing about now, unless it announced a longer pause
STALE_PAUSES = 2  # or this many announced pauses
_BUCKETS = max(MAX_TOTAL_NODES.values())
MAX_HELD_BYTES = _BUCKETS // 8 + 1024  # zlib adds 5 bytes for 16 KB that it cannot make smaller


@dataclass(frozen=True)
class NodeReport:
    """One member's report; times are seconds since the epoch by that member's clock.

    `read_at` is when its kernel was read back: `held` buckets were in force then, of that `digest`,
    and the kernel accepted new connections in them for another `lease_left_s` (0 or less: in none).
    It then obeyed `view` (`None`: no view yet) and had seen it at `view_at`. `kept` counts the
    buckets out of force in which connections are kept, `flows` the connections that live (`None`:
    not known), counted after the hand-over to the view `counted_under` (`None`: not known after
    which). `able` is False where the node cannot serve; `problems` says why, and names each failing
    health check. `before` holds the weights, by member id, from which the table of the view before
    was built. The member reports again after `pause_s` at the latest.
    """

    read_at: float
    view: ViewId | None
    view_at: float
    held: int
    digest: str
    lease_left_s: float
    kept: int
    flows: int | None
    counted_under: ViewId | None
    pause_s: float
    able: bool
    problems: tuple[str, ...]
    xdp: str
    version: str
    before: dict[int, int]
    format: int = FORMAT

    def encode(self) -> bytes:
        """The znode's data, JSON."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def is_news_after(self, former: NodeReport) -> bool:
        """Whether it says more than that time went by.

        Connections that come and go are news only while the node keeps some in buckets that moved.
        """
        flows = self.flows if self.kept else former.flows
        ends = (self.lease_left_s > 0) != (former.lease_left_s > 0)
        return (
            ends
            or replace(
                self,
                read_at=former.read_at,
                view_at=former.view_at,
                lease_left_s=former.lease_left_s,
                pause_s=former.pause_s,
                flows=flows,
            )
            != former
        )

    @property
    def stale_s(self) -> float:
        """From which age, in seconds, the report says nothing about now."""
        return max(STALE_S, STALE_PAUSES * self.pause_s)

    def is_stale(self, now_s: float) -> bool:
        """Whether the member has missed its own pace at `now_s`, seconds since the epoch."""
        return now_s - self.read_at > self.stale_s


def decode(data: bytes) -> NodeReport:
    """Read a report, which anything may have written; ValueError says what is wrong with it."""
    if len(data) > MAX_REPORT_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_REPORT_BYTES} are allowed")
    record = read_object(data)
    read_format(record)
    return NodeReport(
        read_at=_number(record, "read_at", MAX_START_TIME_S),
        view=_view(record, "view"),
        view_at=_number(record, "view_at", MAX_START_TIME_S),
        held=read_int(record, "held", 0, _BUCKETS),
        digest=read_text(record, "digest", 32),
        lease_left_s=_number(record, "lease_left_s", MAX_LEASE_S),
        kept=read_int(record, "kept", 0, _BUCKETS),
        flows=None if record.get("flows") is None else read_int(record, "flows", 0, 1 << 32),
        counted_under=_view(record, "counted_under"),
        pause_s=_number(record, "pause_s", MAX_PAUSE_S),
        able=read_bool(record, "able"),
        problems=_problems(record.get("problems")),
        xdp=read_text(record, "xdp", 32),
        version=read_text(record, "version", 32),
        before=_weights(record.get("before")),
    )


def digest(total_nodes: int, buckets: Collection[int]) -> str:
    """Return a text that is equal for equal sets of buckets, and for no others."""
    return blake2b(_bitmap(total_nodes, buckets), digest_size=12).hexdigest()


def pack(total_nodes: int, buckets: Collection[int]) -> bytes:
    """Return a set of buckets as one znode's data: at most a bit for each of `total_nodes`."""
    return zlib.compress(_bitmap(total_nodes, buckets))


def unpack(total_nodes: int, data: bytes) -> frozenset[int]:
    """Return the buckets in a znode, which anything may have written; ValueError for nonsense."""
    if len(data) > MAX_HELD_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_HELD_BYTES} are allowed")
    size = _size(total_nodes)
    try:
        # No more than that: a few bytes could unfold to gigabytes.
        bitmap = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError("not compressed data") from error
    if len(bitmap) != size:
        raise ValueError(f"not the {size} bytes that {total_nodes} buckets take")
    found = frozenset(_numbers(bitmap))
    if found and max(found) > total_nodes:
        raise ValueError(f"buckets beyond {total_nodes}")
    return found


def _size(total_nodes: int) -> int:
    return (total_nodes + 7) // 8


def _bitmap(total_nodes: int, buckets: Iterable[int]) -> bytes:
    bitmap = bytearray(_size(total_nodes))
    for bucket in buckets:
        bitmap[bucket - 1 >> 3] |= 1 << (bucket - 1 & 7)
    return bytes(bitmap)


def _numbers(bitmap: bytes) -> Iterable[int]:
    for index, byte in enumerate(bitmap):
        if byte:
            yield from (8 * index + bit + 1 for bit in range(8) if byte >> bit & 1)


def _number(record: dict[str, Any], key: str, most: float) -> float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -most <= value <= most:
        raise ValueError(f"{key} is not a number from {-most:g} to {most:g}")
    return float(value)


def _view(record: dict[str, Any], key: str) -> ViewId | None:
    value = record.get(key)
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(type(part) is int and abs(part) < 1 << 63 for part in value)
    ):
        raise ValueError(f"{key} is no identity of a view")
    return ViewId(*value)


def _problems(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_REASONS:
        raise ValueError(f"problems is no list of at most {MAX_REASONS}")
    return tuple(read_text({"problem": problem}, "problem") for problem in value)


def _weights(value: object) -> dict[int, int]:
    if not isinstance(value, dict) or len(value) > MAX_MEMBERS:
        raise ValueError(f"before is no object of at most {MAX_MEMBERS} members")
    if len(candidate_ids(value, MAX_ID)[0]) < len(value):
        raise ValueError("before names something that is no member id")
    return {int(name): read_int(value, name, 0, MAX_WEIGHT) for name in value}
