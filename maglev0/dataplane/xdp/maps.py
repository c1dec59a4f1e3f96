"""The layout of the XDP program's maps, as early.bpf.c declares them.

Pure: imports no I/O.

One program serves all VIPs of an interface, at most `MAX_VIPS`. `vips` leads from an address to how
its packets are hashed and to a *slot*. `admitted` has one bit for each bucket of each slot, in
words of 64; a packet passes if the bit of its bucket is set.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from maglev0.core.service import HashMode, Service
from maglev0.errors import UnavailableError

MAX_VIPS = 32
WORDS = 16384  # in a slot: 64 buckets each, as many as a cluster can have
WORD_BITS = 64

_VIP = struct.Struct("=IIII")
_COUNTER = struct.Struct("=QQ")
VIP_SIZE, COUNTER_SIZE = _VIP.size, _COUNTER.size
_FIELDS = {HashMode.SOURCE_IP: 1, HashMode.SOURCE_IP_PORT: 2, HashMode.SOURCE_IP_PORT_DEST_PORT: 3}


class Counter(NamedTuple):
    """Packets, and their bytes by the length in their IP headers."""

    packets: int
    bytes: int


class XdpCounters(NamedTuple):
    """What arrived for one VIP: passed on to the next stage, and dropped as foreign."""

    passed: Counter
    dropped: Counter


def vip_value(service: Service, slot: int) -> bytes:
    """Return what `vips` holds for a service."""
    return _VIP.pack(service.hash_seed, service.total_nodes, _FIELDS[service.hash_mode], slot)


def slot_of(value: bytes) -> int:
    """Return the slot in a value of `vips`."""
    return int(_VIP.unpack(value)[3])


def free_slot(taken: Collection[int]) -> int:
    """Return the lowest slot that no VIP has.

    Raises `UnavailableError` when the program serves `MAX_VIPS` addresses.
    """
    slot = next((slot for slot in range(MAX_VIPS) if slot not in taken), None)
    if slot is None:
        raise UnavailableError(
            f"the program on the interface already serves {MAX_VIPS} addresses, its limit"
        )
    return slot


def counter_keys(slot: int) -> tuple[bytes, bytes]:
    """Return the keys of the two counters of a slot."""
    first, second = (struct.pack("=I", 2 * slot + dropped) for dropped in (False, True))
    return first, second


def counted(per_cpu: bytes) -> Counter:
    """Return the sum of a counter over all processors, from what the kernel gives for it."""
    return Counter(*(sum(column) for column in zip(*_COUNTER.iter_unpack(per_cpu), strict=True)))


class Bits:
    """The bits of one slot, as the kernel has them: words by index; a missing word is zero."""

    def __init__(self) -> None:
        self._words: dict[int, int] = {}

    def added(self, buckets: Iterable[int]) -> Mapping[int, int]:
        """Return the words that change when these buckets, from 1, are set too.

        Nothing changes here until `take`.
        """
        changed: dict[int, int] = {}
        get, now = changed.get, self._words.get
        for bucket in buckets:
            index, bit = divmod(bucket - 1, WORD_BITS)
            changed[index] = get(index, now(index, 0)) | 1 << bit
        return changed

    def removed(self, buckets: Iterable[int]) -> Mapping[int, int]:
        """Return the words that change when these buckets are cleared."""
        changed: dict[int, int] = {}
        get, now = changed.get, self._words.get
        for bucket in buckets:
            index, bit = divmod(bucket - 1, WORD_BITS)
            changed[index] = get(index, now(index, 0)) & ~(1 << bit)
        return changed

    def take(self, words: Mapping[int, int]) -> None:
        """Record that the kernel has these words now."""
        self._words.update(words)


def batch(slot: int, words: Mapping[int, int]) -> tuple[bytes, bytes]:
    """Return keys and values for an update of `admitted`."""
    return array("I", (slot * WORDS + index for index in words)).tobytes(), array(
        "Q", words.values()
    ).tobytes()


def whole(
    slot: int, buckets: Iterable[int], total_nodes: int
) -> tuple[Mapping[int, int], tuple[bytes, bytes]]:
    """Return all words of a service with so many buckets, and their update."""
    words = dict.fromkeys(range(-(-max(2, total_nodes) // WORD_BITS)), 0)
    words.update(Bits().added(buckets))
    return words, batch(slot, words)
