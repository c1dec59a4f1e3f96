"""What a member says of itself for people to read, beside the protocol: its report, and the buckets that its kernel holds.

Pure: imports no I/O. Nothing that decides who owns what reads it.
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

MAX_REPORT_BYTES = (
    1 << 17
)  # some 600 bytes, and 12 for each member of the view before; problems in no Latin script take 12 bytes a character
MAX_REASONS = 16
MAX_LEASE_S = 3600.0
_BUCKETS = max(MAX_TOTAL_NODES.values())
MAX_HELD_BYTES = _BUCKETS // 8 + 1024  # zlib adds 5 bytes for 16 KB that it cannot make smaller


@dataclass(frozen=True)
class NodeReport:
    """One member's report; times are seconds since the epoch by that member's clock.

    `read_at` is when its kernel was read back: `held` buckets were in force then, of that `digest`, and new flows were accepted in them for
    another `lease_left_s` (0 or less: in none). It then obeyed `view` (`None`: no view yet) and had seen it at `view_at`. `kept` counts the
    buckets out of force in which connections are kept, `flows` the connections that live (`None`: not counted). `able` is False where the node
    cannot serve; `problems` says why, and names each failing check. `before` is what the table of the view before was built from, by member id.
    """

    read_at: float
    view: ViewId | None
    view_at: float
    held: int
    digest: str
    lease_left_s: float
    kept: int
    flows: int | None
    able: bool
    problems: tuple[str, ...]
    xdp: str
    version: str
    before: dict[int, int]
    format: int = FORMAT

    def encode(self) -> bytes:
        """The znode's data, JSON."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def is_news_after(self, told: NodeReport) -> bool:
        """Whether it says more than that time went by: connections that come and go are no news where none is waited for."""
        flows = self.flows if self.kept else told.flows
        ends = (self.lease_left_s > 0) != (told.lease_left_s > 0)
        return (
            ends
            or replace(
                self,
                read_at=told.read_at,
                view_at=told.view_at,
                lease_left_s=told.lease_left_s,
                flows=flows,
            )
            != told
        )


def decode(data: bytes) -> NodeReport:
    """Read a report, whoever wrote it; ValueError says what is wrong with it."""
    if len(data) > MAX_REPORT_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_REPORT_BYTES} are allowed")
    record = read_object(data)
    read_format(record)
    return NodeReport(
        read_at=_number(record, "read_at", MAX_START_TIME_S),
        view=_view(record.get("view")),
        view_at=_number(record, "view_at", MAX_START_TIME_S),
        held=read_int(record, "held", 0, _BUCKETS),
        digest=read_text(record, "digest", 32),
        lease_left_s=_number(record, "lease_left_s", MAX_LEASE_S),
        kept=read_int(record, "kept", 0, _BUCKETS),
        flows=None if record.get("flows") is None else read_int(record, "flows", 0, 1 << 32),
        able=read_bool(record, "able"),
        problems=_problems(record.get("problems")),
        xdp=read_text(record, "xdp", 32),
        version=read_text(record, "version", 32),
        before=_weights(record.get("before")),
    )


def digest(total_nodes: int, buckets: Collection[int]) -> str:
    """What tells one set of buckets from every other: equal texts, equal sets."""
    return blake2b(_bitmap(total_nodes, buckets), digest_size=12).hexdigest()


def pack(total_nodes: int, buckets: Collection[int]) -> bytes:
    """A set of buckets as one znode's data: at most a bit for each of `total_nodes`."""
    return zlib.compress(_bitmap(total_nodes, buckets))


def unpack(total_nodes: int, data: bytes) -> frozenset[int]:
    """The set of buckets in a znode, whoever wrote it; ValueError where it is none."""
    if len(data) > MAX_HELD_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_HELD_BYTES} are allowed")
    size = _size(total_nodes)
    try:
        bitmap = zlib.decompressobj().decompress(
            data, size + 1
        )  # no more than that: a few bytes could unfold to gigabytes
    except zlib.error as error:
        raise ValueError("not compressed data") from error
    if len(bitmap) != size:
        raise ValueError(f"not the {size} bytes that {total_nodes} node numbers take")
    found = frozenset(_numbers(bitmap))
    if found and max(found) > total_nodes:
        raise ValueError(f"node numbers beyond {total_nodes}")
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


def _view(value: object) -> ViewId | None:
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(type(part) is int and abs(part) < 1 << 63 for part in value)
    ):
        raise ValueError("view is no identity of a view")
    return ViewId(*value)


def _problems(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_REASONS:
        raise ValueError(f"problems is no list of at most {MAX_REASONS}")
    return tuple(read_text({"problem": problem}, "problem") for problem in value)


def _weights(value: object) -> dict[int, int]:
    if not isinstance(value, dict) or len(value) > MAX_MEMBERS:
        raise ValueError(f"before is no object of at most {MAX_MEMBERS} members")
    if len(candidate_ids(value, MAX_ID)[0]) < len(value):
        raise ValueError("before names what is no member id")
    return {int(name): read_int(value, name, 0, MAX_WEIGHT) for name in value}
