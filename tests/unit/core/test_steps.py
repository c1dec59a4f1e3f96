from __future__ import annotations

from maglev0.core.steps import Steps, finished


def test_all_steps_are_taken_and_the_result_is_theirs() -> None:
    taken = []

    def counting(count: int) -> Steps[str]:
        for number in range(count):
            taken.append(number)
            yield
        return "done"

    assert finished(counting(3)) == "done"
    assert taken == [0, 1, 2]
    assert finished(counting(0)) == "done"
