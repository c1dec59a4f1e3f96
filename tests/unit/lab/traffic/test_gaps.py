from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from maglev0.lab.traffic.gaps import Gap, Passage, gaps, passages, quantile
from maglev0.lab.traffic.raw import RequestKind
from maglev0.lab.traffic.tally import Tally

END = 10**12


def tally_of(*requests: tuple[int, int, int | None]) -> Tally:
    """Requests as (time, source, node that answered or None)."""
    tally = Tally()
    for number, (at, source, node) in enumerate(requests):
        tally.ask(RequestKind.UDP, source, at)
        if node is not None:
            tally.answer(number, node, at + 1, refusal=False)
    return tally


def found(*requests: tuple[int, int, int | None], end: int = END) -> list[Passage]:
    return list(passages(tally_of(*requests), end))


def test_a_served_source_that_stays_has_no_passage() -> None:
    assert found((1, 5, 2), (2, 5, 2), (3, 6, 1), (4, 5, 2)) == []


def test_a_move_without_a_loss_and_one_with() -> None:
    assert found((1, 5, 2), (2, 5, 3)) == [Passage(5, 2, 3, 1, 2, 0, 0, 0)]
    assert found((1, 5, 2), (2, 5, None), (3, 6, 1), (4, 5, None), (5, 5, 3)) == [
        Passage(5, 2, 3, 1, 5, 2, 2, 4)
    ]


def test_a_gap_of_a_source_that_stays() -> None:
    assert found((1, 5, 2), (2, 5, None), (3, 5, 2)) == [Passage(5, 2, 2, 1, 3, 1, 2, 2)]


def test_gaps_at_the_start_and_at_the_end() -> None:
    assert found((1, 5, None), (2, 5, 2)) == [Passage(5, None, 2, 1, 2, 1, 1, 1)]
    assert found((1, 5, 2), (2, 5, None), end=7) == [Passage(5, 2, None, 1, 7, 1, 2, 2)]
    assert found((1, 5, 2), (9, 5, None), end=7) == []


def test_all_samples_bound_a_shared_gap() -> None:
    # The gap is 100..200: one source sent at 90 and 190, the second at 110 and 205, the third at 95
    # and 250 without a loss between them.
    one = Passage(1, 2, 3, 90, 290, 1, 190, 190)
    two = Passage(2, 2, 3, 10, 205, 1, 110, 110)
    three = Passage(3, 2, 3, 95, 250, 0, 0, 0)
    assert gaps([one, two, three]) == [Gap(passage, 80e-9, 110e-9) for passage in (two, one, three)]


def test_passages_that_cannot_share_a_gap_have_two() -> None:
    early, late = Passage(1, 2, 3, 10, 20, 0, 0, 0), Passage(2, 2, 3, 15, 40, 1, 30, 30)
    assert [gap.most_s for gap in gaps([early, late])] == [10e-9, 25e-9]
    assert [gap.length_s for gap in gaps([early, late])] == [0.0, 12.5e-9]


def test_moves_in_opposite_directions_share_no_gap() -> None:
    there, back = Passage(1, 2, 3, 10, 20, 0, 0, 0), Passage(2, 3, 2, 12, 18, 0, 0, 0)
    assert {gap.most_s for gap in gaps([there, back])} == {10e-9, 6e-9}


@given(
    st.integers(100, 200),
    st.integers(0, 100),
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60)), min_size=1, max_size=20),
)
def test_the_true_gap_of_buckets_that_flip_together_lies_within_the_bounds(
    start: int, length: int, sources: list[tuple[int, int]]
) -> None:
    """Each source sends periodically; no node answers from `start` to `start + length`."""
    asked = sorted(
        (at, source)
        for source, (period, phase) in enumerate(sources)
        for at in range(phase, 500, period)
    )
    requests = [
        (at, source, 1 if at < start else 2 if at >= start + length else None)
        for at, source in asked
    ]
    for gap in gaps(found(*requests)):
        assert gap.least_s <= length / 1e9 <= gap.most_s + 1e-9
        assert gap.least_s <= gap.length_s <= gap.most_s or gap.length_s == 0


def test_quantiles() -> None:
    assert quantile([], 0.5) == 0.0
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([float(number) for number in range(100)], 0.99) == 99.0
