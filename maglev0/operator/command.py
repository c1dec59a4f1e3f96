"""What all commands share: they parse a command line by their help text, and end in one way."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from maglev0.config.arguments import parse
from maglev0.errors import MaglevError

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
READER_GONE = 141  # 128 + SIGPIPE


def run(text: str, name: str, arguments: list[str], work: Callable[[dict[str, Any]], int]) -> int:
    """Parse `arguments` by the help text and do `work` with them; returns the exit status.

    An error that the operator can cause is one line on stderr, never a traceback.
    """
    # A terminal without block characters shows bars of ?.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        try:
            return _reported(lambda: work(parse(text, arguments, name)))
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return reader_gone()


def reader_gone() -> int:
    """Stop writing to a pipe that nobody reads; returns the exit status for that."""
    # Python writes the rest of the buffer when the process ends, which would fail again.
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  no path, a device
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return READER_GONE


def _reported(work: Callable[[], int]) -> int:
    try:
        return work()
    except MaglevError as error:
        sys.stderr.write(f"maglev0: {error}\n")
        return error.exit_status
