"""A page of the manual as a man page: Markdown in, roff out.

Pure: does no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode as Node

from maglev0 import __version__
from maglev0.operator.shell import manual
from maglev0.operator.shell.roff import escaped, guarded, tidied, wrapped

_TABLE_WIDTH = 70  # of a line of 78 characters, less the indentation
_COLUMN_GAP = 3  # what tbl puts between two columns
_SEPARATOR = "@"  # of cells; it stands only outside of their texts
_SUBSECTION = "h3"


def page(topic: str, text: str) -> str:
    """Return the man page maglev0-TOPIC(7), for troff with its man macros and tbl.

    `text` is Markdown: a title, a paragraph, then anything of headings, paragraphs, lists, code,
    quotes, tables and links. What Markdown has beyond these raises KeyError.
    """
    tree = Node(MarkdownIt("commonmark").enable("table").parse(text))
    name = f"maglev0-{topic}"
    lines = [
        r"""'\" t""",  # man(1) runs the page through tbl
        f'.TH {escaped(name.upper())} 7 "" "maglev0 {__version__}" "maglev0 manual"',
        ".nh",
        ".ad l",
        ".SH NAME",
        rf"{escaped(name)} \- {escaped(manual.summary(text))}",
        ".SH DESCRIPTION",
        *_blocks(tree.children[1:]),
        ".SH SEE ALSO",
        r"\fBmaglev0\fR(8), \fBmaglev0 man\fR",
    ]
    return "".join(f"{line}\n" for line in [lines[0], *tidied(lines[1:])])


def _blocks(nodes: Iterable[Node]) -> Iterator[str]:
    for node in nodes:
        yield from _BLOCKS[node.type](node)


def _heading(node: Node) -> Iterator[str]:
    title = _inline(node)
    yield f".SS {title}" if node.tag >= _SUBSECTION else f".SH {title.upper()}"


def _paragraph(node: Node) -> Iterator[str]:
    yield ".PP"
    yield guarded(_inline(node))


def _code(node: Node) -> Iterator[str]:
    yield ".PP"
    yield ".RS 4"
    yield ".nf"
    for line in node.content.rstrip("\n").split("\n"):
        yield guarded(escaped(line))
    yield ".fi"
    yield ".RE"


def _quote(node: Node) -> Iterator[str]:
    yield ".RS 4"
    yield from _blocks(node.children)
    yield ".RE"


def _list(node: Node) -> Iterator[str]:
    first = int(node.attrs.get("start", 1))
    for number, item in enumerate(node.children, first):
        mark = r"\(bu 2" if node.type == "bullet_list" else f"{number}. 4"
        yield f".IP {mark}"
        text, *others = item.children
        yield guarded(_inline(text))
        if others:
            yield ".RS"
            yield from _blocks(others)
            yield ".RE"


def _table(node: Node) -> Iterator[str]:
    rows = [
        [_inline(cell) for cell in row.children] for part in node.children for row in part.children
    ]
    plain = [
        [_plain(cell) for cell in row.children] for part in node.children for row in part.children
    ]
    widths = _widths(list(zip(*plain, strict=True)))
    yield ".PP"
    yield ".TS"
    yield f"tab({_SEPARATOR});"
    yield " ".join(f"lbw({width}n)" for width in widths)
    yield " ".join(f"lw({width}n)" for width in widths) + "."
    for row in rows:
        yield from _row(row)
    yield ".TE"


def _row(cells: list[str]) -> Iterator[str]:
    yield "T{"
    for number, cell in enumerate(cells):
        if number:
            yield f"T}}{_SEPARATOR}T{{"
        yield from wrapped(cell)
    yield "T}"


def _widths(columns: list[tuple[str, ...]]) -> list[int]:
    """Widths in characters: of the longest cells, the widest columns narrowed until all fit."""
    widths = [max(map(len, column)) for column in columns]
    least = [
        max(len(word) for cell in column for word in ["", *cell.split()]) for column in columns
    ]
    room = _TABLE_WIDTH - _COLUMN_GAP * (len(columns) - 1)
    while sum(widths) > room:
        spare = [(width, at) for at, width in enumerate(widths) if width > least[at]]
        if not spare:
            break
        widths[max(spare)[1]] -= 1
    return widths


def _inline(node: Node) -> str:
    return "".join(_INLINE[child.type](child) for child in node.children)


def _link(node: Node) -> str:
    text, address = _inline(node), escaped(str(node.attrs["href"]))
    return text if text == address else f"{text} ({address})"


def _plain(node: Node) -> str:
    return "".join(
        _plain(child) if child.children else child.content or " " for child in node.children
    )


_BLOCKS: Mapping[str, Callable[[Node], Iterator[str]]] = {
    "heading": _heading,
    "paragraph": _paragraph,
    "code_block": _code,
    "fence": _code,
    "blockquote": _quote,
    "bullet_list": _list,
    "ordered_list": _list,
    "table": _table,
}
_INLINE: Mapping[str, Callable[[Node], str]] = {
    "inline": _inline,
    "text": lambda node: escaped(node.content),
    "code_inline": lambda node: rf"\fB{escaped(node.content)}\fR",
    "strong": lambda node: rf"\fB{_inline(node)}\fR",
    "em": lambda node: rf"\fI{_inline(node)}\fR",
    "link": _link,
    "softbreak": lambda _node: " ",
    "hardbreak": lambda _node: " ",
}
