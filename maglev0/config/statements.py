"""Reads a configuration file statement by statement: each has its line, and all mistakes are found.

Pure: imports no I/O.

tomllib names the line of a syntax error, but not the line of a value, and stops at the first
mistake. So this module gives it the lines of one statement at a time. Only while a list or a text
of several lines is open does tomllib complain about the end of its input.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, NamedTuple

# The limit of one statement, whose beginning is parsed once for each of its lines: four times the
# longest list that makes sense.
MAX_STATEMENT_LINES = 256

_OPEN = "(at end of document)"
_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")
_ALLOWED = 'each line must be key = value, with text in quotes as in interface = "eth0"'


class Mistake(NamedTuple):
    """What is wrong, and its line."""

    line: int
    what: str


class Statement(NamedTuple):
    """A key and its value. `lines` are those of the items of a list, else the line of the key."""

    key: str
    value: Any
    line: int
    lines: tuple[int, ...]


def read(text: str) -> tuple[list[Statement], list[Mistake]]:
    """Return the statements and the mistakes of a text. No two statements have the same key."""
    lines = text.replace("\r\n", "\n").split("\n")
    statements: dict[str, Statement] = {}
    mistakes: list[Mistake] = []
    first = 0
    while first < len(lines):
        first, found = _next(lines, first)
        if isinstance(found, Mistake):
            mistakes.append(found)
        elif found is not None and found.key in statements:
            mistakes.append(
                Mistake(
                    found.line,
                    (
                        f"{found.key!r} is given again; line {statements[found.key].line} has it "
                        "already"
                    ),
                )
            )
        elif found is not None:
            statements[found.key] = found
    return list(statements.values()), mistakes


def _next(lines: list[str], first: int) -> tuple[int, Statement | Mistake | None]:
    """Read the statement that begins at index `first`.

    Returns the index after it, and the statement, a mistake, or `None` for a line without either.
    """
    for end in range(first + 1, min(len(lines), first + MAX_STATEMENT_LINES) + 1):
        try:
            content = _parsed(lines[first:end])
        except tomllib.TOMLDecodeError as error:
            if str(error).endswith(_OPEN):
                continue
            return _wrong(lines, first, str(error))
        # A number of thousands of digits raises the first, deeply nested brackets the second.
        except (ValueError, RecursionError):
            return end, Mistake(first + 1, f"too large or nested too deeply; {_ALLOWED}")
        return end, _statement(lines, first, end, content)
    return len(lines), Mistake(
        first + 1, f"the list or text that begins here does not end; {_ALLOWED}"
    )


def _parsed(lines: list[str]) -> dict[str, Any]:
    # TOML refuses a carriage return within a line. The newline that is added here must not turn a
    # carriage return at the end of the text into a line end, so it becomes another refused byte.
    return tomllib.loads("\n".join(lines).replace("\r", "\0") + "\n")


def _wrong(lines: list[str], first: int, error: str) -> tuple[int, Mistake]:
    reason, place = _PLACE.sub("", error), _PLACE.search(error)
    index = first + (int(place[1]) if place else 1) - 1
    key = _KEY.match(lines[index])
    column = f" at column {place[2]}" if place else ""
    return index + 1, Mistake(
        index + 1,
        (
            f"{key[1] + ': ' if key else ''}not TOML, {reason[0].lower()}{reason[1:]}{column}; "
            f"{_ALLOWED}"
        ),
    )


def _statement(
    lines: list[str], first: int, end: int, content: dict[str, Any]
) -> Statement | Mistake | None:
    for key, value in content.items():
        if isinstance(value, dict) or (
            isinstance(value, list) and any(isinstance(item, dict) for item in value)
        ):
            return Mistake(first + 1, f"{key!r} is a table; {_ALLOWED}, without [tables]")
        places = (
            _item_lines(lines, first, end, len(value)) if isinstance(value, list) else (first + 1,)
        )
        return Statement(key, value, first + 1, places)
    return None


def _item_lines(lines: list[str], first: int, end: int, count: int) -> tuple[int, ...]:
    """The lines of a list's items: the first after which the list, closed there, holds the item."""
    found: list[int] = []
    for last in range(first + 1, end):
        try:
            (items,) = _parsed([*lines[first:last], "]"]).values()
        except tomllib.TOMLDecodeError:
            continue  # within an item
        found += [last] * (len(items) - len(found))
    return (*found, *[end] * (count - len(found)))
