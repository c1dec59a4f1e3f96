from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maglev0.core import table
from tests.support import reference

sizes = st.one_of(
    st.integers(1, 64),
    st.integers(65, 3000),
    st.sampled_from([5, 251, 256, 1009, 2048, 2310, 4093]),
)
names = st.one_of(
    st.integers(1, 2000).map("backend-{}".format),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
)


def members(
    weights: st.SearchStrategy[int], max_count: int = 40
) -> st.SearchStrategy[dict[str, int]]:
    return st.dictionaries(names, weights, min_size=1, max_size=max_count).filter(
        lambda some: any(some.values())
    )


def backends(count: int, weight: int = 1) -> dict[str, int]:
    return {f"backend-{number}": weight for number in range(1, count + 1)}


def without(weights: dict[str, int], leaver: str) -> dict[str, int]:
    return {name: weight for name, weight in weights.items() if name != leaver}


def moved(before: tuple[str, ...], after: tuple[str, ...]) -> Counter[str]:
    """How many slots each former owner lost."""
    return Counter(old for old, new in zip(before, after, strict=True) if old != new)


# Golden values: if a table changed between two releases, old and new nodes of one cluster would own
# the same buckets.


def test_golden_table_with_equal_weights() -> None:
    assert table.build(5, {"backend-1": 1, "backend-3": 1, "backend-4": 1}) == (
        "backend-3",
        "backend-1",
        "backend-4",
        "backend-3",
        "backend-1",
    )


def test_golden_table_with_weights() -> None:
    owners = table.build(13, {"backend-1": 1, "backend-2": 2, "backend-3": 0, "backend-4": 3})
    assert "".join(owner.removeprefix("backend-") for owner in owners) == "4412444412222"


GOLDEN = [
    (1, {"backend-1": 1, "backend-2": 1}, "4ca00a6940264245"),
    (16, backends(3), "54e8236b30c57dec"),
    (251, {"backend-1": 1, "backend-2": 2, "backend-3": 3, "backend-4": 0}, "bca9eb762e9459e6"),
    (4096, backends(7, weight=100), "2e25a3ce775ce812"),
    (65_537, backends(10), "7e686db5f52db9ff"),
    (65_537, {**backends(999), "backend-1000": 250}, "f881d8d2b26038bd"),
]


def fingerprint(size: int, weights: dict[str, int]) -> str:
    return hashlib.sha256("\n".join(table.build(size, weights)).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("size", "weights", "expected"), GOLDEN)
def test_golden_fingerprints(size: int, weights: dict[str, int], expected: str) -> None:
    assert fingerprint(size, weights) == expected


@pytest.mark.parametrize("hash_seed", ["0", "1", "4294967295"])
def test_golden_fingerprints_do_not_depend_on_the_interpreters_hash_seed(hash_seed: str) -> None:
    code = (
        "from tests.unit.core.test_table import GOLDEN, fingerprint\n"
        "for size, weights, _ in GOLDEN: print(fingerprint(size, weights))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == [expected for _, _, expected in GOLDEN]


# The slow reference.


@given(sizes, members(st.integers(0, 4)))
@settings(deadline=None)
def test_the_table_is_the_sequential_algorithms(size: int, weights: dict[str, int]) -> None:
    assert table.build(size, weights) == reference.build(size, weights)


@given(st.integers(1, 400), members(st.one_of(st.integers(0, 100), st.just(10**6)), max_count=12))
@settings(deadline=None)
def test_the_table_is_the_sequential_algorithms_at_uneven_weights(
    size: int, weights: dict[str, int]
) -> None:
    assert table.build(size, weights) == reference.build(size, weights)


@pytest.mark.parametrize(
    ("size", "count"), [(65_537, 3), (65_537, 1000), (65_536, 100), (100_000, 7)]
)
def test_the_table_is_the_sequential_algorithms_at_full_size(size: int, count: int) -> None:
    assert table.build(size, backends(count)) == reference.build(size, backends(count))


# Laws.


@given(sizes, members(st.integers(0, 50)), st.randoms())
@settings(deadline=None)
def test_the_order_of_the_members_does_not_matter(
    size: int, weights: dict[str, int], random: Random
) -> None:
    shuffled = list(weights.items())
    random.shuffle(shuffled)
    assert table.build(size, dict(shuffled)) == table.build(size, weights)


@given(sizes, members(st.integers(0, 50)), st.integers(2, 1000))
@settings(deadline=None)
def test_only_the_ratio_of_the_weights_matters(
    size: int, weights: dict[str, int], factor: int
) -> None:
    assert table.build(
        size, {name: factor * weight for name, weight in weights.items()}
    ) == table.build(size, weights)


@given(sizes, members(st.integers(0, 50)))
@settings(deadline=None)
def test_every_slot_belongs_to_a_member_with_a_positive_weight(
    size: int, weights: dict[str, int]
) -> None:
    owners = table.build(size, weights)
    assert len(owners) == size
    assert set(owners) <= {name for name, weight in weights.items() if weight > 0}


@given(sizes, members(st.just(3), max_count=80))
@settings(deadline=None)
def test_equal_weights_give_shares_that_differ_by_one_at_most(
    size: int, weights: dict[str, int]
) -> None:
    shares = Counter(table.build(size, weights))
    assert max(shares.values()) - min(shares[name] for name in weights) <= 1


@given(sizes, members(st.integers(0, 1000)))
@settings(deadline=None)
def test_shares_are_in_proportion_to_the_weights(size: int, weights: dict[str, int]) -> None:
    shares = Counter(table.build(size, weights))
    heaviest = max(weights.values())
    rounds = max(shares[name] for name, weight in weights.items() if weight == heaviest)
    for name, weight in weights.items():
        # A turn is due half a turn early or late; in the last round, one more than the heaviest
        # finished, not all had their turn.
        assert (
            (rounds - 1) * weight / heaviest - 0.5
            <= shares[name]
            <= (rounds + 1) * weight / heaviest + 0.5
        )


@given(sizes, members(st.integers(1, 20)), st.integers(1, 20))
@settings(deadline=None)
def test_weight_0_is_as_good_as_absent(size: int, weights: dict[str, int], number: int) -> None:
    drained = f"backend-{number}"
    assert table.build(size, {"other": 1, **weights, drained: 0}) == table.build(
        size, without({"other": 1, **weights}, drained)
    )


@given(sizes, names)
@settings(deadline=None)
def test_a_single_member_owns_everything(size: int, name: str) -> None:
    assert table.build(size, {name: 1}) == (name,) * size


@given(sizes, names)
@settings(deadline=None)
def test_a_permutation_visits_every_slot_once(size: int, name: str) -> None:
    assert sorted(table._permutation(name, size).places()) == list(range(size))


@pytest.mark.parametrize("count", [3, 10, 100, 1000])
def test_a_leaver_moves_its_own_slots_and_few_others(count: int) -> None:
    everyone, leaver = backends(count), f"backend-{count // 2}"
    before, after = table.build(65_537, everyone), table.build(65_537, without(everyone, leaver))
    lost = moved(before, after)
    assert lost[leaver] == before.count(leaver)
    assert lost.total() - lost[leaver] < 0.01 * 65_537


# Bounds.


def test_more_members_than_slots_share_what_there_is() -> None:
    assert max(Counter(table.build(7, backends(100))).values()) == 1


def test_the_largest_table() -> None:
    assert sorted(Counter(table.build(table.MAX_SIZE, backends(3))).values()) == [
        349_525,
        349_525,
        349_526,
    ]


def test_the_lightest_member_beside_a_heavy_one_may_own_nothing() -> None:
    assert set(table.build(100, {"heavy": 10**12, "light": 1})) == {"heavy"}


@pytest.mark.parametrize(
    ("size", "weights", "message"),
    [
        (0, {"backend-1": 1}, "table size 0: must be within 1..1048576"),
        (-1, {"backend-1": 1}, "table size -1: must be within 1..1048576"),
        (1_048_577, {"backend-1": 1}, "table size 1048577: must be within 1..1048576"),
        (5, {"backend-1": 1, "backend-2": -1}, "weight -1 of backend-2: must not be negative"),
        (5, {"": 1, "backend-2": 1}, "a member without a name"),
        (5, {"backend-1": 0, "backend-2": 0}, "no member with a positive weight"),
        (5, {}, "no member with a positive weight"),
    ],
)
def test_what_no_table_can_be_built_of(size: int, weights: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the whole message is compared
        table.build(size, weights)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    "weights", [backends(1000), {"heavy": 10**9, **backends(999)}], ids=["equal", "one heavy"]
)
def test_building_needs_little_memory(weights: dict[str, int]) -> None:
    tracemalloc.start()
    try:
        table.build(65_537, weights)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10_000_000
