"""Lines of roff, the language of man pages: escaped, wrapped, and without needless requests.

Pure: imports no I/O.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

LINE_LENGTH = 79

# What troff would read as something else, see groff_char(7).
_SPECIAL = {"\\": r"\(rs", "-": r"\-", "~": r"\(ti", "^": r"\(ha", "`": r"\(ga", '"': r"\(dq"}
# Lines between these stand in the page as they are.
_VERBATIM = {".nf": ".fi", ".TS": ".TE"}


def escaped(text: str) -> str:
    """The text in ASCII, with nothing in it that troff reads as a request or an escape."""
    special = "".join(_SPECIAL.get(letter, letter) for letter in text)
    return re.sub(r"[^\x00-\x7f]", lambda found: rf"\[u{ord(found[0]):04X}]", special)


def guarded(line: str) -> str:
    """The line, which troff does not take for a request whatever it begins with."""
    return rf"\&{line}" if line[:1] in {".", "'"} else line


def wrapped(line: str) -> list[str]:
    """Lines of at most `LINE_LENGTH` characters, unless a single word is longer."""
    return [
        guarded(part)
        for part in textwrap.wrap(line, LINE_LENGTH, break_long_words=False, break_on_hyphens=False)
    ]


def tidied(lines: Sequence[str]) -> Iterator[str]:
    """Wrap the lines of text, and leave out .PP where a new paragraph begins anyway."""
    end: str | None = None
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        if end is not None or line.startswith("."):
            needless = line == ".PP" and (before.startswith(".S") or after == ".TP")
            if end is not None or not needless:
                yield line
            end = None if line == end else end or _VERBATIM.get(line)
        else:
            yield from wrapped(line)
