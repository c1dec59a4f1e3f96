"""Work that is done in steps, so that its caller can do other things between two of them.

Pure: imports no I/O.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

_Result = TypeVar("_Result")

# Yields between two steps, and returns the result.
Steps: TypeAlias = Generator[None, None, _Result]


def finished(steps: Steps[_Result]) -> _Result:
    """Take all steps at once."""
    while True:  # all work that is written as steps is bounded
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result
