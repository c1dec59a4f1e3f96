"""The log on stdout: one line for each fact, with the time unless journald adds it."""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import TextIO


class _Formatter(logging.Formatter):
    """ISO 8601 times with the zone's offset; the level is shown above INFO."""

    def __init__(self, *, with_time: bool) -> None:
        super().__init__()
        self._with_time = with_time

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.levelno > logging.INFO:
            text = f"{record.levelname.lower()}: {text}"
        if not self._with_time:
            return text
        time = datetime.fromtimestamp(record.created, UTC).astimezone()
        return f"{time.isoformat(timespec='milliseconds')} {text}"


class _StdoutHandler(logging.StreamHandler[TextIO]):
    """Continues without a reader, so that a closed pipe does not change the exit status."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's own name
        if sys.exc_info()[0] is BrokenPipeError:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  no path, a device
                os.dup2(nowhere.fileno(), self.stream.fileno())
        super().handleError(record)


def _is_journal(descriptor: int) -> bool:
    """Whether journald reads this descriptor.

    $JOURNAL_STREAM alone does not show it: child processes inherit the variable (systemd.exec(5)).
    """
    stat = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def begin(*, verbose: bool) -> None:
    """Log to stdout, line by line."""
    handler = _StdoutHandler(sys.stdout)
    handler.setFormatter(_Formatter(with_time=not _is_journal(handler.stream.fileno())))
    logger = logging.getLogger("maglev0")
    logger.handlers = [handler]
    logger.propagate = False
    set_verbose(verbose=verbose)
    logging.raiseExceptions = False  # no traceback when the reader of the log is gone


def set_verbose(*, verbose: bool) -> None:
    """Also log what did not change, or only what did."""
    logging.getLogger("maglev0").setLevel(logging.DEBUG if verbose else logging.INFO)
    # Kazoo reports each failed attempt; the daemon logs each reason once.
    logging.getLogger("maglev0.kazoo").setLevel(logging.INFO if verbose else logging.CRITICAL)
