"""The man page of the command, maglev0(8), made of the texts that --help shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from maglev0 import __version__
from maglev0.operator.shell import help_text
from maglev0.operator.shell.help_text import Help, Item, Option, Part
from maglev0.operator.shell.roff import escaped, guarded, tidied

# Bold: what the reader types, flags and the command's own name.
_BOLD = re.compile(r"(?<![\w/.-])(--?[a-zA-Z][a-z-]*|maglev0(?= [a-z]+\b)|maglev0$)")


def page() -> str:
    """Return the man page, for troff with its man macros."""
    return "".join(
        f"{line}\n"
        for line in tidied(list(_lines(help_text.daemon(), help_text.commands().values())))
    )


def _lines(daemon: Help, commands: Iterable[Help]) -> Iterator[str]:
    yield f'.TH MAGLEV0 8 "" "maglev0 {__version__}" "System administration"'
    yield ".nh"  # a hyphenated flag cannot be searched for
    yield ".ad l"
    yield ".SH NAME"
    yield f"{escaped(daemon.name)} \\- {escaped(daemon.summary.rstrip('.'))}"
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
    yield f".SS {escaped(help_.name)}"
    yield _text(help_.summary)
    yield from _usage(help_)
    yield from _running(help_)
    yield from _options(help_.options)
    above = None
    for part in help_.parts:
        if part.heading:
            yield ".PP"
            yield f"{escaped(part.heading)}:" if part.heading != above else ""
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
        names = ", ".join(rf"\fB{escaped(name)}\fR" for name in option.names)
        yield names if option.value is None else rf"{names}=\fI{escaped(option.value)}\fR"
        yield _text(option.text)


def _text(text: str) -> str:
    """Running text, in which flags are bold."""
    parts = [
        rf"\fB{escaped(part)}\fR" if number % 2 else escaped(part)
        for number, part in enumerate(_BOLD.split(text))
    ]
    return guarded("".join(parts))
