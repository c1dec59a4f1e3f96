"""Makes the picture of a scenario: a row for each change, with the owners before and after.

The left of a row shows all buckets in their order. The right shows the members: flows from their
shares before to those after, and bars of the shares beside the fair ones. The picture is drawn in
memory, without a window or a display.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from maglev0.core.text import printable
from maglev0.core.view import name_of
from maglev0.errors import MaglevError
from maglev0.operator.simulate import drawing
from maglev0.operator.simulate.drawing import INK, SHARES_WIDTH, STILL, Colours
from maglev0.operator.simulate.scenario import Change, Scenario, ScenarioStep, shown

# Okabe and Ito's palette, which people with any common colour blindness can tell apart; as many
# colours as `drawing.NAMED_MEMBERS`.
_DISTINCT = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
# More colours cannot be told apart: members that one of the first events concerns get its colour,
# all others a shade of blue.
_INVOLVED = ("#D55E00", "#F0E442", "#000000", "#E69F00")
_BLUES = LinearSegmentedColormap.from_list("blues", ("#0b3c73", "#c3dcef"))

_WIDTH, _ROW, _HEAD, _FOOT = 15.0, 3.5, 0.75, 0.1  # inches
# Of the three grids in a row: side, left margin, gap, lower margin.
_GRID, _LEFT, _BETWEEN, _UNDER = 2.55, 0.3, 0.2, 0.3
_RIGHT, _BARS = 9.1, 1.1  # where flows and bars begin, and the height of bars
_DPI = 130
_MOST_CELLS = (
    70_000  # in a grid, little more than its dots; of larger tables it shows every nth bucket
)
_LEGEND_COLUMNS = 12


def figure(asked: Scenario, steps: Sequence[ScenarioStep]) -> Figure:
    """Draw these steps of a scenario; the first step of a size must not be among them."""
    height = _HEAD + _ROW * len(steps) + _FOOT
    drawn = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    colours = _colours(asked)
    sizes = _listed([f"{size:,}" for size in asked.sizes])
    title = f"Who owns which of {sizes} buckets, and what moves"
    drawn.text(
        _LEFT / _WIDTH,
        1 - 0.32 / height,
        title,
        fontsize=16,
        weight="bold",
        color=INK,
        va="center",
    )
    corner = (_LEFT / _WIDTH, 1 - 0.5 / height)
    looks = {
        "frameon": False,
        "fontsize": 9.5,
        "handlelength": 1.2,
        "columnspacing": 1.5,
        "borderpad": 0,
        "borderaxespad": 0,
    }
    drawn.legend(
        handles=list(_legend(asked, colours)),
        loc="upper left",
        bbox_to_anchor=corner,
        ncols=_LEGEND_COLUMNS,
        **looks,
    )
    for place, step in enumerate(steps, 1):
        _row(_Canvas(drawn, height - _HEAD - _ROW * place), step, colours)
    return drawn


def _listed(words: Sequence[str]) -> str:
    return " and ".join([*([", ".join(words[:-1])] if words[1:] else []), words[-1]])


def write_picture(drawn: Figure, path: Path) -> None:
    """Write the picture, in the format of the name's suffix, as a whole or not at all.

    Raises MaglevError.
    """
    data = io.BytesIO()
    drawn.savefig(data, format=path.suffix.removeprefix("."))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data.getbuffer())
        temporary.replace(path)
    except OSError as error:
        raise MaglevError(f"writing {printable(str(path))}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _colours(asked: Scenario) -> Colours:
    members = sorted({member for _event, weights in asked.views for member in weights})
    if len(members) <= len(_DISTINCT):
        return dict(zip(members, _DISTINCT, strict=False))
    concerned = {
        member: hue
        for hue, event in reversed(list(zip(_INVOLVED, asked.events, strict=False)))
        for member in event.members
    }
    others = [member for member in members if member not in concerned]
    return {
        member: to_hex(_BLUES(place / len(others))) for place, member in enumerate(others)
    } | concerned


def _legend(asked: Scenario, colours: Colours) -> Iterator[Patch | Line2D]:
    if len(colours) <= len(_DISTINCT):
        yield from (
            Patch(color=colour, label=name_of(member)) for member, colour in colours.items()
        )
    else:
        events = {
            hue: event
            for hue, event in zip(_INVOLVED, asked.events, strict=False)
            if hue in colours.values()
        }
        yield from (Patch(color=hue, label=_called(event)) for hue, event in events.items())
        others = sum(hue not in events for hue in colours.values())
        yield Patch(color=to_hex(_BLUES(0.4)), label=f"{others} others; a higher id is lighter")
    yield Patch(color=STILL, label="did not move")
    yield Line2D([], [], color="black", linewidth=1.5, label="fair share")
    yield Patch(facecolor="none", edgecolor=INK, linestyle=":", label="share before")


def _called(event: Change) -> str:
    """The members that an event concerns, in words."""
    return (
        name_of(next(iter(event.members)))
        if len(event.members) == 1
        else f"{len(event.members)} members: {shown(event.text)}"
    )


class _Canvas(NamedTuple):
    """A row of the picture; its lower edge is at `bottom`. All lengths are in inches."""

    drawn: Figure
    bottom: float

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes without a frame, at a place in the row."""
        whole = self.drawn.get_figheight()
        axes = self.drawn.add_axes(
            (left / _WIDTH, (self.bottom + bottom) / whole, width / _WIDTH, height / whole)
        )
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
        return axes

    def text(
        self, left: float, bottom: float, text: str, *, size: float, bold: bool = False
    ) -> None:
        """A line of text."""
        place = (left / _WIDTH, (self.bottom + bottom) / self.drawn.get_figheight())
        self.drawn.text(
            *place,
            text,
            fontsize=size,
            weight="bold" if bold else "normal",
            color=INK,
            va="center",
        )


def _row(canvas: _Canvas, step: ScenarioStep, colours: Colours) -> None:
    moved, necessary, disruption = (
        f"{count:,} ({count / step.size:.2%})" for count in step.movement
    )
    what = "" if step.event is None else step.event.words
    canvas.text(_LEFT, _ROW - 0.25, f"{what}: {moved} of {step.size:,} move", size=13, bold=True)
    canvas.text(_RIGHT, _ROW - 0.2, f"{necessary} had to move, {disruption} is disruption", size=11)
    canvas.text(
        _RIGHT,
        _ROW - 0.42,
        f"shares now {step.balance.smallest:.2%} to {step.balance.largest:.2%} of the fair one",
        size=11,
    )
    _buckets(canvas, step, colours)
    drawing.draw_flows(
        canvas.axes(_RIGHT, _UNDER + _BARS + 0.2, SHARES_WIDTH, _GRID - _BARS - 0.2), step, colours
    )
    drawing.draw_bars(canvas.axes(_RIGHT, _UNDER, SHARES_WIDTH, _BARS), step, colours)


def _buckets(canvas: _Canvas, step: ScenarioStep, colours: Colours) -> None:
    """Three grids of all buckets: owners before, new owners of moved buckets, owners after."""
    every = ceil(step.size / _MOST_CELLS)
    before, after = (owners[::every] for owners in (step.before or (), step.owners))
    moved = [None if new == old else new for old, new in zip(before, after, strict=True)]
    of_them = "" if every == 1 else f", every {every}th"
    for place, (name, owners) in enumerate(
        {"before": before, "moved": moved, "after": after}.items()
    ):
        axes = canvas.axes(_LEFT + place * (_GRID + _BETWEEN), _UNDER, _GRID, _GRID)
        axes.set_title(name + of_them, fontsize=9.5, color=INK, pad=4)
        drawing.draw_grid(axes, owners, colours)
