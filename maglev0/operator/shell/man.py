"""maglev0 man: print the manual page, maglev0(8), made of the texts that --help shows.

Usage:
  maglev0 man
  maglev0 man (-h | --help)

Options:
  -h, --help    show this text

To read it at once:  maglev0 man | man -l -

Exit status: 0 printed, 2 a word on the command line is wrong.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from maglev0 import __version__
from maglev0.operator import command
from maglev0.operator.shell import help_text
from maglev0.operator.shell.help_text import Help, Item, Option, Part

LINE_LENGTH = 79

# What is the same in every manual page stands out: flags and the command's own name.
_BOLD = re.compile(r"(?<![\w/.-])(--?[a-zA-Z][a-z-]*|maglev0(?= [a-z]+\b)|maglev0$)")
# What troff would take for something else, see groff_char(7).
_SPECIAL = {"\\": r"\(rs", "-": r"\-", "~": r"\(ti", "^": r"\(ha", "`": r"\(ga", '"': r"\(dq"}


def main(arguments: list[str]) -> int:
    """Run `maglev0 man` with what stands behind `man` on the command line; returns the exit status."""
    return command.run(__doc__, "man", arguments, _print)


def _print(_arguments: dict[str, Any]) -> int:
    sys.stdout.write(page())
    return 0


def page() -> str:
    """Return the manual page, for troff with its man macros."""
    return "".join(
        f"{line}\n"
        for line in _tidied(list(_lines(help_text.daemon(), help_text.commands().values())))
    )


def _tidied(lines: list[str]) -> Iterator[str]:
    """No paragraph begins where there is a new one in any case, and no line is so long that editors and linters mind."""
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        if line == ".PP" and (before.startswith(".S") or after == ".TP"):
            continue
        yield from [line] if line.startswith(".") else _wrapped(line)


def _wrapped(line: str) -> Iterator[str]:
    return map(
        _guarded, textwrap.wrap(line, LINE_LENGTH, break_long_words=False, break_on_hyphens=False)
    )


def _lines(daemon: Help, commands: Iterable[Help]) -> Iterator[str]:
    yield f'.TH MAGLEV0 8 "" "maglev0 {__version__}" "System administration"'
    yield ".nh"  # a flag that is broken in two cannot be found
    yield ".ad l"
    yield ".SH NAME"
    yield f"{_escaped(daemon.name)} \\- {_escaped(daemon.summary.rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield from _usage(daemon)
    yield ".SH DESCRIPTION"
    yield from _running(daemon)
    yield ".SH OPTIONS"
    yield from _options(daemon.options)
    above = None
    for part in daemon.parts:
        if part.heading:
            yield f".SH {part.heading.upper()}" if part.heading != above else ".PP"
            yield from _content(part)
            if part.heading == "Commands":
                for each in commands:
                    yield from _command(each)
        above = part.heading


def _command(help_: Help) -> Iterator[str]:
    yield f".SS {_escaped(help_.name)}"
    yield _text(help_.summary)
    yield from _usage(help_)
    yield from _running(help_)
    yield from _options(help_.options)
    above = None
    for part in help_.parts:
        if part.heading:
            yield ".PP"
            yield f"{_escaped(part.heading)}:" if part.heading != above else ""
            yield from _content(part)
        above = part.heading


def _running(help_: Help) -> Iterator[str]:
    for part in help_.parts:
        if not part.heading:
            yield ".PP"
            yield from _content(part)


def _usage(help_: Help) -> Iterator[str]:
    for line in help_.usage:
        yield ".PP"
        yield _text(line)


def _content(part: Part) -> Iterator[str]:
    if isinstance(part.content, str):
        yield _text(part.content)
    else:
        for item in part.content:
            yield from _item(item)


def _item(item: Item) -> Iterator[str]:
    yield ".TP"
    yield _text(item.name)
    yield _text(item.text)


def _options(options: tuple[Option, ...]) -> Iterator[str]:
    for option in options:
        yield ".TP"
        names = ", ".join(rf"\fB{_escaped(name)}\fR" for name in option.names)
        yield names if option.value is None else rf"{names}=\fI{_escaped(option.value)}\fR"
        yield _text(option.text)


def _text(text: str) -> str:
    """Running text, in which flags are bold."""
    parts = [
        rf"\fB{_escaped(part)}\fR" if number % 2 else _escaped(part)
        for number, part in enumerate(_BOLD.split(text))
    ]
    return _guarded("".join(parts))


def _escaped(text: str) -> str:
    special = "".join(_SPECIAL.get(letter, letter) for letter in text)
    return re.sub(r"[^\x00-\x7f]", lambda found: rf"\[u{ord(found[0]):04X}]", special)


def _guarded(line: str) -> str:
    return rf"\&{line}" if line[:1] in {".", "'"} else line  # it would be a request
