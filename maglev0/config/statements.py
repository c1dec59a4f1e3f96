"""The text of a configuration file, statement by statement: everything in it has its line, and no mistake hides another.

Pure: imports no I/O.

tomllib tells the line of wrong syntax, but not where a value stands, and stops at the first mistake. So it is given as few lines at a time as
are one statement. While a list or a text of several lines is open, and only then, it complains about the end of what it was given.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, NamedTuple

# So much is tried for one statement, at the price of parsing its beginning as many times: four times the longest list that makes sense.
MAX_STATEMENT_LINES = 256

_OPEN = "(at end of document)"
_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")
_ALLOWED = 'allowed is key = value, with every text in quotes as in interface = "eth0"'


class Mistake(NamedTuple):
    """What is wrong, and the line on which it stands."""

    line: int
    what: str


class Statement(NamedTuple):
    """A key and its value. `lines` is where the value's items stand if it is a list, else where the key does."""

    key: str
    value: Any
    line: int
    lines: tuple[int, ...]


def read(text: str) -> tuple[list[Statement], list[Mistake]]:
    """Return what the text says, and everything in it that is not a key with a value. No key comes twice."""
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
                    f"{found.key!r} is there a second time; allowed is once, and line {statements[found.key].line} has it",
                )
            )
        elif found is not None:
            statements[found.key] = found
    return list(statements.values()), mistakes


def _next(lines: list[str], first: int) -> tuple[int, Statement | Mistake | None]:
    """Read the statement that begins with the line of that index. Returns the index behind it, and `None` for a line without one."""
    for end in range(first + 1, min(len(lines), first + MAX_STATEMENT_LINES) + 1):
        try:
            content = _parsed(lines[first:end])
        except tomllib.TOMLDecodeError as error:
            if str(error).endswith(_OPEN):
                continue
            return _wrong(lines, first, str(error))
        except (
            ValueError,
            RecursionError,
        ):  # a number of thousands of digits; brackets within brackets within …
            return end, Mistake(first + 1, f"too large or nested too deeply; {_ALLOWED}")
        return end, _statement(lines, first, end, content)
    return len(lines), Mistake(
        first + 1, f"a list or text that begins here is never closed; {_ALLOWED}"
    )


def _parsed(lines: list[str]) -> dict[str, Any]:
    # A carriage return that ends no line is refused as every control character is; the newline that we add must not make it one that does.
    return tomllib.loads("\n".join(lines).replace("\r", "\0") + "\n")


def _wrong(lines: list[str], first: int, told: str) -> tuple[int, Mistake]:
    reason, place = _PLACE.sub("", told), _PLACE.search(told)
    index = first + (int(place[1]) if place else 1) - 1
    key = _KEY.match(lines[index])
    column = f" at column {place[2]}" if place else ""
    return index + 1, Mistake(
        index + 1,
        f"{key[1] + ': ' if key else ''}not TOML, {reason[0].lower()}{reason[1:]}{column}; {_ALLOWED}",
    )


def _statement(
    lines: list[str], first: int, end: int, content: dict[str, Any]
) -> Statement | Mistake | None:
    for key, value in content.items():
        if isinstance(value, dict) or (
            isinstance(value, list) and any(isinstance(item, dict) for item in value)
        ):
            return Mistake(first + 1, f"{key!r} is a table; {_ALLOWED}, and no [tables]")
        places = (
            _item_lines(lines, first, end, len(value)) if isinstance(value, list) else (first + 1,)
        )
        return Statement(key, value, first + 1, places)
    return None


def _item_lines(lines: list[str], first: int, end: int, count: int) -> tuple[int, ...]:
    """The lines of a list's items: of each the first after which the list, closed there, holds the item."""
    found: list[int] = []
    for last in range(first + 1, end):
        try:
            (items,) = _parsed([*lines[first:last], "]"]).values()
        except tomllib.TOMLDecodeError:
            continue  # within an item
        found += [last] * (len(items) - len(found))
    return (*found, *[end] * (count - len(found)))
