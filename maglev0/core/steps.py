"""Work that can be done a step at a time, so that who does it beside other things is never away for long.

Pure: imports no I/O.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

_Result = TypeVar("_Result")

Steps: TypeAlias = Generator[
    None, None, _Result
]  # yields between two steps, and returns the result


def finished(steps: Steps[_Result]) -> _Result:
    """Take all steps at once."""
    while True:  # ends: whatever is written as steps is bounded
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result
