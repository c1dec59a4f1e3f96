"""Every request that was asked raw, and who answered it: a few bytes each, for hundreds of thousands."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from maglev0.lab.traffic.raw import RequestKind

if TYPE_CHECKING:
    from pathlib import Path

# Nodes are remembered as bits of one 64-bit number; bit 0 stands for strangers.
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
    """One column a property, one row a request; a request's number is its row. Times are nanoseconds of CLOCK_MONOTONIC.

    `answered_ns` is 0 while nobody served the request; `nodes` and `refusing` have a bit for each node that did, or that refused;
    `answers` counts packets, which for a SYN includes those sent again.
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
        """Count an answer; one to a number never asked is a stray that says nothing."""
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
        """The node that answered a request; the one with the lowest number where several did, None where nobody did."""
        bits = self.nodes[number]
        return (bits & -bits).bit_length() - 1 if bits else None

    def is_double(self, number: int) -> bool:
        """Whether more than one node spoke, or one spoke twice where an answer is one packet."""
        spoke = self.nodes[number] | self.refusing[number]
        return spoke & (spoke - 1) != 0 or (
            self.kinds[number] != RequestKind.SYN and self.answers[number] > 1
        )

    def write(self, path: Path) -> None:
        """Save it."""
        with path.open("wb") as file:
            file.write(json.dumps(len(self)).encode() + b"\n")
            for name in _COLUMNS:
                getattr(self, name).tofile(file)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` saved."""
        loaded = cls()
        with path.open("rb") as file:
            length = json.loads(file.readline())
            for name in _COLUMNS:
                getattr(loaded, name).fromfile(file, length)
        return loaded
