"""Records raw requests and the nodes that answered, in a few bytes for each request."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from maglev0.lab.traffic.raw import RequestKind

if TYPE_CHECKING:
    from pathlib import Path

# Nodes are bits of one 64-bit number; bit 0 stands for unknown MAC addresses.
HIGHEST_NODE = 63
_MOST_COUNTED = 255
_COLUMNS = ("sent_ns", "answered_ns", "nodes", "refusing", "sources", "kinds", "answers")


def _times() -> array[int]:
    return array("q")


def _bits() -> array[int]:
    return array("Q")


def _bytes() -> array[int]:
    return array("B")


@dataclass
class Tally:
    """A table with one row for each request; the request's number is its row.

    Times are nanoseconds of CLOCK_MONOTONIC. `answered_ns` is 0 while no node has served the
    request. `nodes` has a bit for each node that served it, `refusing` for each that refused it.
    `answers` counts packets, including repeated answers to a SYN.
    """

    sent_ns: array[int] = field(default_factory=_times)
    answered_ns: array[int] = field(default_factory=_times)
    nodes: array[int] = field(default_factory=_bits)
    refusing: array[int] = field(default_factory=_bits)
    sources: array[int] = field(default_factory=lambda: array("H"))
    kinds: array[int] = field(default_factory=_bytes)
    answers: array[int] = field(default_factory=_bytes)

    def __len__(self) -> int:
        return len(self.sent_ns)

    def ask(self, kind: RequestKind, source: int, sent_ns: int) -> None:
        """Add a request."""
        self.sent_ns.append(sent_ns)
        self.answered_ns.append(0)
        self.nodes.append(0)
        self.refusing.append(0)
        self.sources.append(source)
        self.kinds.append(kind)
        self.answers.append(0)

    def answer(self, number: int, node: int, at_ns: int, *, refusal: bool) -> None:
        """Count an answer; ignore one to a number that was never asked."""
        if number >= len(self.sent_ns):
            return
        bit = 1 << min(node, HIGHEST_NODE)
        if refusal:
            self.refusing[number] |= bit
            return
        self.nodes[number] |= bit
        self.answers[number] = min(_MOST_COUNTED, self.answers[number] + 1)
        if not self.answered_ns[number]:
            self.answered_ns[number] = at_ns

    def owner(self, number: int) -> int | None:
        """The lowest number of the nodes that answered a request; None where none did."""
        bits = self.nodes[number]
        return (bits & -bits).bit_length() - 1 if bits else None

    def is_double(self, number: int) -> bool:
        """Whether two nodes answered, or one answered twice where an answer is one packet."""
        spoke = self.nodes[number] | self.refusing[number]
        return spoke & (spoke - 1) != 0 or (
            self.kinds[number] != RequestKind.SYN and self.answers[number] > 1
        )

    def write(self, path: Path) -> None:
        """Save the table; `read` loads it."""
        with path.open("wb") as file:
            file.write(json.dumps(len(self)).encode() + b"\n")
            for name in _COLUMNS:
                getattr(self, name).tofile(file)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Load a table that `write` saved."""
        loaded = cls()
        with path.open("rb") as file:
            length = json.loads(file.readline())
            for name in _COLUMNS:
                getattr(loaded, name).fromfile(file, length)
        return loaded
