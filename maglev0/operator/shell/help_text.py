"""The parts of a command's help text, which man page and shell completion are made of."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from maglev0.config import command_line
from maglev0.operator.commands import COMMANDS

_HEADING = re.compile(r"([A-Z][a-z]+(?: [a-z]+)?)(?:, [^:]*)?:\s")
_COLUMNS = re.compile(r" {2,}")


class Option(NamedTuple):
    """One flag: its names, what its value is called (`None`: a switch), and what it does."""

    names: tuple[str, ...]
    value: str | None
    text: str


class Item(NamedTuple):
    """A line of two columns: a name, and what it means."""

    name: str
    text: str


class Part(NamedTuple):
    """A paragraph of running text or a list, with or without a heading."""

    heading: str | None
    content: str | tuple[Item, ...]


class Help(NamedTuple):
    """The help of a command."""

    name: str
    summary: str
    usage: tuple[str, ...]
    options: tuple[Option, ...]
    parts: tuple[Part, ...]


def parse(text: str) -> Help:
    """Split a help text into its parts."""
    first, *blocks = re.split(r"\n{2,}", text.strip("\n"))
    name, _colon, summary = " ".join(first.split()).partition(": ")
    usage: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    parts: list[Part] = []
    for block in blocks:
        head, _newline, body = block.partition("\n")
        if head == "Usage:":
            # A line that is indented further continues the one before.
            joined = re.sub(r"\n {3,}", " ", body)
            usage = tuple(line.strip() for line in joined.split("\n"))
        elif head == "Options:":
            options = tuple(_option(item) for item in _items(body))
        else:
            parts += _parts(block)
    return Help(name, summary, usage, options, tuple(parts))


def _parts(block: str) -> Iterator[Part]:
    """The parts of a block: its lines at the margin and its indented lines, under its heading."""
    found = _HEADING.match(block)
    heading = found[1] if found and not _COLUMNS.match(block, found.end() - 1) else None
    body = block[found.end() :] if found and heading else block
    for is_indented, lines in itertools.groupby(
        body.strip("\n").split("\n"), lambda line: line.startswith(" ")
    ):
        text = "\n".join(lines)
        if is_indented or _COLUMNS.search(text):
            yield Part(heading, _items(text))
        else:
            yield Part(heading, " ".join(text.split()))


def _items(body: str) -> tuple[Item, ...]:
    """The lines of two columns; a line indented deeper than the first column continues an item."""
    items: list[Item] = []
    margin = min(len(line) - len(line.lstrip()) for line in body.split("\n"))
    for line in body.split("\n"):
        if items and len(line) - len(line.lstrip()) > margin:
            items[-1] = Item(items[-1].name, f"{items[-1].text} {line.strip()}".strip())
        else:
            name, *rest = _COLUMNS.split(line.strip(), maxsplit=1)
            items.append(Item(name, "".join(rest)))
    return tuple(items)


def _option(item: Item) -> Option:
    value = re.search(r"[= ]<?([A-Z][^>\s]*)>?$", item.name)
    names = tuple(re.findall(r"--?[A-Za-z][A-Za-z-]*", item.name))
    return Option(names, value[1] if value else None, item.text)


def daemon() -> Help:
    """The help of the daemon itself."""
    return parse(command_line.HELP)


def commands() -> Mapping[str, Help]:
    """The help of each command, as the command prints it."""
    return {name: parse(_printed(name)) for name in COMMANDS}


def _printed(name: str) -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="utf-8") as stdout, contextlib.redirect_stdout(stdout):
        with contextlib.suppress(SystemExit):
            importlib.import_module(COMMANDS[name]).main(["--help"])
        stdout.flush()
        return raw.getvalue().decode()
