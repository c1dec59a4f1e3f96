"""What all commands share: they parse a command line by their help text, and end in one way."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import docopt

from maglev0.core.text import printable
from maglev0.errors import ConfigError, MaglevError

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
READER_GONE = 141  # 128 + SIGPIPE
# A user may write the password in place of the name of its file. docopt accepts abbreviated flags.
_SECRET = re.compile(r"(--zk-a[a-z]*[= ])\S+")


def run(text: str, name: str, arguments: list[str], work: Callable[[dict[str, Any]], int]) -> int:
    """Parse `arguments` by the help text and do `work` with them; returns the exit status.

    An error that the operator can cause is one line on stderr, never a traceback.
    """
    # A terminal without block characters shows bars of ?.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
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


def parse(text: str, name: str, arguments: list[str]) -> dict[str, Any]:
    """Parse a command line by its help text; SystemExit after --help, ConfigError on error."""
    try:
        return dict(docopt.docopt(text, [name, *arguments]))
    except docopt.DocoptExit as error:
        # docopt names the fault in its first line only if an option is unknown, ambiguous or has no
        # value.
        fault = str(error).partition("\n")[0]
        known = "" if fault.lower().startswith("usage") else f"{fault}; "
        line = _SECRET.sub(r"\1…", printable(" ".join([name, *arguments])))
        raise ConfigError(
            f"{known}cannot read the command line: {line};"
            f" maglev0 {name} --help shows what is allowed"
        ) from error
