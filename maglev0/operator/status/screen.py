"""Draws `maglev0 status` in a terminal.

Names and reasons come from other machines, so no text is interpreted as markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from maglev0.operator.status import wording
from maglev0.operator.status.page import SOUND, MemberRow, Status
from maglev0.operator.status.wording import Cell

COLOURS = (
    "cyan",
    "magenta",
    "yellow",
    "green",
    "blue",
    "bright_red",
    "bright_cyan",
    "bright_magenta",
    "bright_yellow",
    "bright_green",
    "bright_blue",
)
_BAD = "bold red"
_FAULT = "bold white on red"
_DIM = "dim"


class Screen:
    """A terminal that shows clusters; with `watch` it is redrawn in place."""

    def __init__(self, *, everyone: bool, watch: bool) -> None:
        self._console = Console(highlight=False)
        self._everyone = everyone
        self._live = Live(console=self._console, auto_refresh=False) if watch else None

    def __enter__(self) -> Callable[[Sequence[Status], str], None]:
        if self._live is not None:
            self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _show(self, clusters: Sequence[Status], trouble: str) -> None:
        shown = render(clusters, self._console.width, everyone=self._everyone)
        if trouble:
            shown = Group(Text(f"{trouble}; what follows is the last reading", style=_FAULT), shown)
        if self._live is None:
            self._console.print(shown)
        else:
            self._live.update(shown, refresh=True)


def render(clusters: Sequence[Status], width: int, *, everyone: bool = False) -> RenderableType:
    """The clusters below each other, `width` columns wide.

    Without `everyone` the number of usual members is bounded.
    """
    return Group(
        *(part for of in clusters for part in (*_cluster(of, width, everyone=everyone), Text()))
    )


def _cluster(of: Status, width: int, *, everyone: bool) -> Iterator[RenderableType]:
    shown = wording.shown_rows(of, everyone=everyone)
    yield Text(wording.title(of), style="bold")
    yield from _lines([wording.settings_line(of), wording.alike_line(of)], _DIM)
    for cell in wording.verdict_lines(of):
        yield Text(
            cell.text, style=_BAD if cell.is_bad else "green" if of.verdict == SOUND else "yellow"
        )
    styles = _styles(of)
    yield _strip(of, styles, width)
    yield _table(of, shown, styles, width)
    yield from _lines([wording.summary_line(of, shown)], _DIM)
    yield from _lines(wording.problem_lines(shown), _BAD)
    yield from _lines(wording.other_lines(of), "yellow")


def _lines(lines: Sequence[str], style: str) -> Iterator[Text]:
    return (Text(line, style=style) for line in lines if line)


def _styles(of: Status) -> dict[str, str]:
    """Each member's colours, by its name; the signs can be read without colours."""
    return {
        row.member.name: f"black on {COLOURS[place % len(COLOURS)]}"
        for place, row in enumerate(of.rows)
    }


def _strip(of: Status, styles: dict[str, str], width: int) -> Text:
    signs, strip = wording.symbols(of), Text(no_wrap=True)
    for part in wording.strip(of, width):
        sign, style = (
            ("!", _FAULT)
            if part.is_bad
            else (signs.get(part.owner, wording.NOBODY), styles.get(part.owner, _DIM))
        )
        strip.append(sign, style=style)
    return strip


def _table(of: Status, shown: Sequence[MemberRow], styles: dict[str, str], width: int) -> Table:
    wanted, signs = wording.columns(of, shown, width), wording.symbols(of)
    table = Table(box=None, padding=(0, len(wording.GAP), 0, 0), pad_edge=False, header_style=_DIM)
    table.add_column("", no_wrap=True)
    for column in wanted:
        table.add_column(
            Text(column.heading),
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if column.is_number else "left",
        )
    for row in shown:
        sign = Text(signs[row.member.name], style=styles[row.member.name])
        table.add_row(sign, *(_cell(column.cell(row)) for column in wanted))
    return table


def _cell(cell: Cell) -> Text:
    return Text(cell.text, style=_BAD if cell.is_bad else "")
