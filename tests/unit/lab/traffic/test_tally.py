from __future__ import annotations

from typing import TYPE_CHECKING

from maglev0.lab.traffic.raw import RequestKind
from maglev0.lab.traffic.tally import Tally

if TYPE_CHECKING:
    from pathlib import Path


def test_owners_double_answers_and_times() -> None:
    tally = Tally()
    for kind in (
        RequestKind.SYN,
        RequestKind.UDP,
        RequestKind.PING,
        RequestKind.UDP,
        RequestKind.SYN,
    ):
        tally.ask(kind, 9, 100)
    tally.answer(0, 2, 150, refusal=False)
    tally.answer(0, 2, 160, refusal=False)  # a repeated SYN-ACK
    tally.answer(1, 2, 150, refusal=False)
    tally.answer(1, 2, 160, refusal=False)
    tally.answer(2, 2, 150, refusal=False)
    tally.answer(2, 3, 150, refusal=True)
    tally.answer(4, 5, 150, refusal=True)
    tally.answer(99, 1, 150, refusal=False)
    assert [tally.owner(number) for number in range(5)] == [2, 2, 2, None, None]
    assert [tally.is_double(number) for number in range(5)] == [False, True, True, False, False]
    assert list(tally.answered_ns) == [150, 150, 150, 0, 0]


def test_unknown_nodes_and_nodes_above_63_count_as_answers() -> None:
    tally = Tally()
    for node in (0, 63, 500):
        tally.ask(RequestKind.UDP, 0, 1)
        tally.answer(len(tally) - 1, node, 2, refusal=False)
    assert [tally.owner(number) for number in range(3)] == [0, 63, 63]


def test_a_file_keeps_the_table(tmp_path: Path) -> None:
    tally = Tally()
    for number in range(1000):
        tally.ask(RequestKind(number % 5), number, number * 1_000_000_007)
        tally.answer(number, number % 64, 5, refusal=number % 7 == 0)
    tally.write(tmp_path / "tally")
    assert Tally.read(tmp_path / "tally") == tally
