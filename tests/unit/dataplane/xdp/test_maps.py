from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.core.service import HashMode
from maglev0.dataplane.xdp import maps
from maglev0.errors import UnavailableError
from tests.support.virtual_service import SERVICE

buckets = st.frozensets(st.integers(1, 300), max_size=60)


def kernel(words: dict[int, int]) -> set[int]:
    """The buckets whose bits stand in these words."""
    return {
        index * 64 + bit + 1
        for index, word in words.items()
        for bit in range(64)
        if word >> bit & 1
    }


@given(buckets, st.lists(st.tuples(st.booleans(), buckets), max_size=5))
def test_bits_follow_what_is_added_and_removed(
    first: frozenset[int], steps: list[tuple[bool, frozenset[int]]]
) -> None:
    words, _update = maps.whole(3, first, 300)
    held, bits, expected = dict(words), maps.Bits(), set(first)
    bits.take(words)
    for adds, numbers in steps:
        changed = (bits.added if adds else bits.removed)(numbers)
        held.update(changed)
        bits.take(changed)
        expected = expected | numbers if adds else expected - numbers
        assert kernel(held) == expected


def test_what_was_not_taken_is_not_remembered() -> None:
    bits = maps.Bits()
    assert bits.added({1}) == {0: 1}
    assert bits.added({2}) == {0: 2}


@pytest.mark.parametrize(
    ("total_nodes", "words"), [(1, 1), (64, 1), (65, 2), (65_537, 1025), (1 << 20, maps.WORDS)]
)
def test_a_service_has_as_many_words_as_its_buckets_need(total_nodes: int, words: int) -> None:
    whole, (keys, values) = maps.whole(2, {1}, total_nodes)
    assert sorted(whole) == list(range(words))
    assert struct.unpack(f"={words}I", keys) == tuple(range(2 * maps.WORDS, 2 * maps.WORDS + words))
    assert struct.unpack(f"={words}Q", values) == (1, *[0] * (words - 1))


@pytest.mark.parametrize(
    ("mode", "fields"),
    [(HashMode.SOURCE_IP, 1), (HashMode.SOURCE_IP_PORT, 2), (HashMode.SOURCE_IP_PORT_DEST_PORT, 3)],
)
def test_a_vip_says_how_it_is_hashed_and_in_which_slot(mode: HashMode, fields: int) -> None:
    value = maps.vip_value(replace(SERVICE, hash_mode=mode), 9)
    assert struct.unpack("=IIII", value) == (SERVICE.hash_seed, SERVICE.total_nodes, fields, 9)
    assert len(value) == maps.VIP_SIZE
    assert maps.slot_of(value) == 9


def test_the_lowest_free_slot_is_taken_until_there_is_none() -> None:
    assert maps.free_slot([]) == 0
    assert maps.free_slot([0, 2]) == 1
    with pytest.raises(UnavailableError, match="already serves 32 addresses"):
        maps.free_slot(range(maps.MAX_VIPS))


def test_counters_are_summed_over_processors() -> None:
    assert maps.counted(struct.pack("=4Q", 1, 60, 2, 120)) == maps.Counter(3, 180)
    assert [struct.unpack("=I", key)[0] for key in maps.counter_keys(5)] == [10, 11]
    assert maps.COUNTER_SIZE == 16
