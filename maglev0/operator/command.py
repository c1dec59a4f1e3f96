"""What all the operator's commands have in common: how they read their command line, and how they end."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import docopt

from maglev0.core.text import printable
from maglev0.errors import ConfigError, MaglevError

INTERRUPTED = 130  # as shells say it: 128 and SIGINT
READER_GONE = 141  # 128 and SIGPIPE
# What stands where the name of a password's file should may be the password; docopt takes every beginning of a flag for it.
_SECRET = re.compile(r"(--zk-a[a-z]*[= ])\S+")


def run(text: str, name: str, arguments: list[str], work: Callable[[dict[str, Any]], int]) -> int:
    """Do `work` with what stands behind the command's name, parsed by its help text; returns the exit status, and no error is a traceback."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without block characters shows bars of ?
    try:
        try:
            return _reported(lambda: work(parse(text, name, arguments)))
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return reader_gone()


def reader_gone() -> int:
    """Write no more, for nobody reads; returns the exit status for that."""
    # What is left in the buffer would be written, and fail, once more at the end of the process.
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  no path, a device
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return READER_GONE


def _reported(work: Callable[[], int]) -> int:
    try:
        return work()
    except MaglevError as error:
        sys.stderr.write(f"maglev0: {error}\n")
        return error.exit_status


def parse(text: str, name: str, arguments: list[str]) -> dict[str, Any]:
    """Read a command line by its help text; SystemExit after --help, ConfigError when it is wrong."""
    try:
        return dict(docopt.docopt(text, [name, *arguments]))
    except docopt.DocoptExit as error:
        # docopt names the fault in its first line only where an option is unknown, ambiguous or lacks its value.
        fault = str(error).partition("\n")[0]
        known = "" if fault.lower().startswith("usage") else f"{fault}; "
        line = _SECRET.sub(r"\1…", printable(" ".join([name, *arguments])))
        raise ConfigError(
            f"{known}cannot read the command line: {line}; maglev0 {name} --help shows what is allowed"
        ) from error
