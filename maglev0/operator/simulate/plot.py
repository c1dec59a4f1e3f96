"""The picture of a scenario: for each change a row that shows who owns which buckets before and after, and what moved.

On the left of a row lie all buckets in their order, on the right the members: flows from their shares before to those after, and bars of the
shares beside the fair ones. It is drawn into memory: no window is opened, no display is needed.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from math import ceil, isqrt
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from maglev0.core.text import printable
from maglev0.core.view import name_of
from maglev0.errors import MaglevError
from maglev0.operator.simulate.scenario import (
    BucketFlow,
    Change,
    Scenario,
    ScenarioStep,
    fair,
    shown,
)

# Okabe and Ito's palette, which people with any common kind of colour blindness can tell apart.
_DISTINCT = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
# Beyond those nobody tells colours apart: members that one of the first events concerns get its colour, all others shades of blue.
_INVOLVED = ("#D55E00", "#F0E442", "#000000", "#E69F00")
_BLUES = LinearSegmentedColormap.from_list("blues", ("#0b3c73", "#c3dcef"))
_STILL = "#ececec"  # a bucket that did not move
_NONE = "#ffffff"  # no bucket
_INK = "#333333"

_WIDTH, _ROW, _HEAD, _FOOT = 15.0, 3.5, 0.75, 0.1  # inches
_GRID, _LEFT, _BETWEEN, _UNDER = 2.55, 0.3, 0.2, 0.3  # of the three grids in a row: side, margins
_RIGHT, _SHARES, _BARS = (
    9.1,
    5.6,
    1.1,
)  # where flows and bars begin, how wide they are, and how high bars are
_BLOCK = 0.18  # how high a share's block is, in parts of a flow's length
_DPI = 130
_MOST_CELLS = 70_000  # in a grid, a little over one for each of its dots: of larger tables every so manieth bucket is shown
_LINED_CELLS = 1024  # up to here cells are told apart by lines
_NUMBERED_CELLS = 100  # and up to here they have room for their number
_MOST_FLOWS = 20_000  # the widest ones: with so many, the others are narrower than a dot
_CURVE = tuple(
    (step / 16, (step / 16) ** 2 * (3 - step / 8)) for step in range(17)
)  # down a flow: how far down, how far across
_OUTLINED_BARS = 32  # with more, one line above all of them tells the shares before
_DIGIT = 0.067  # of an id, in inches
_COUNTED_BARS = 12
_LEGEND_COLUMNS = 12

_Colours = Mapping[int, str]


def figure(asked: Scenario, steps: Sequence[ScenarioStep]) -> Figure:
    """Draw these steps of a scenario, none of them the first of its size."""
    height = _HEAD + _ROW * len(steps) + _FOOT
    drawn = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor="white")
    colours = _colours(asked)
    title = f"Who owns which of {_listed([f'{size:,}' for size in asked.sizes])} node numbers, and what moves"
    drawn.text(
        _LEFT / _WIDTH,
        1 - 0.32 / height,
        title,
        fontsize=16,
        weight="bold",
        color=_INK,
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


def save(drawn: Figure, path: Path) -> None:
    """Write the picture, of the kind that the name ends in, as a whole or not at all. Raises MaglevError."""
    data = io.BytesIO()
    drawn.savefig(data, format=path.suffix.removeprefix("."))
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with fresh.open("xb") as file:
            file.write(data.getbuffer())
        fresh.replace(path)
    except OSError as error:
        raise MaglevError(f"writing {printable(str(path))}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def _colours(asked: Scenario) -> _Colours:
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


def _legend(asked: Scenario, colours: _Colours) -> Iterator[Patch | Line2D]:
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
        yield Patch(
            color=to_hex(_BLUES(0.4)), label=f"{others} others, the lighter the higher their id"
        )
    yield Patch(color=_STILL, label="did not move")
    yield Line2D([], [], color="black", linewidth=1.5, label="fair share")
    yield Patch(facecolor="none", edgecolor=_INK, linestyle=":", label="share before")


def _called(event: Change) -> str:
    """The members that an event concerns."""
    return (
        name_of(next(iter(event.members)))
        if len(event.members) == 1
        else f"{len(event.members)} members: {shown(event.text)}"
    )


class _Canvas(NamedTuple):
    """The row of a picture whose lower edge lies at `bottom`; all lengths are in inches."""

    drawn: Figure
    bottom: float

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """A bare place to draw in."""
        whole = self.drawn.get_figheight()
        axes = self.drawn.add_axes(
            (left / _WIDTH, (self.bottom + bottom) / whole, width / _WIDTH, height / whole)
        )
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=8.5, labelcolor=_INK)
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
            color=_INK,
            va="center",
        )


def _row(canvas: _Canvas, step: ScenarioStep, colours: _Colours) -> None:
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
    _flows(canvas.axes(_RIGHT, _UNDER + _BARS + 0.2, _SHARES, _GRID - _BARS - 0.2), step, colours)
    _bars(canvas.axes(_RIGHT, _UNDER, _SHARES, _BARS), step, colours)


def _buckets(canvas: _Canvas, step: ScenarioStep, colours: _Colours) -> None:
    """Three grids of all buckets: their owners before, the new owners of those that moved, and the owners after."""
    every = ceil(step.size / _MOST_CELLS)
    before, after = (owners[::every] for owners in (step.before or (), step.owners))
    moved = [None if new == old else new for old, new in zip(before, after, strict=True)]
    of_them = "" if every == 1 else f", every {every}th"
    for place, (name, owners) in enumerate(
        {"before": before, "moved": moved, "after": after}.items()
    ):
        axes = canvas.axes(_LEFT + place * (_GRID + _BETWEEN), _UNDER, _GRID, _GRID)
        axes.set_title(name + of_them, fontsize=9.5, color=_INK, pad=4)
        _grid(axes, owners, colours)


def _grid(axes: Axes, owners: Sequence[int | None], colours: _Colours) -> None:
    """Buckets in their order, line by line from the upper left; `None` did not move."""
    columns = isqrt(len(owners) - 1) + 1
    palette = [_NONE, _STILL, *colours.values()]
    index: dict[int | None, int] = {
        None: 1,
        **{member: place for place, member in enumerate(colours, 2)},
    }
    cells = [index[owner] for owner in owners] + [0] * (-len(owners) % columns)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    axes.imshow(
        rows,
        cmap=ListedColormap(palette),
        vmin=-0.5,
        vmax=len(palette) - 0.5,
        interpolation="nearest",
        aspect="equal",
    )
    axes.set_anchor("N")
    axes.set_xticks([])
    axes.set_yticks([])
    if len(owners) <= _LINED_CELLS:
        axes.vlines(
            [place - 0.5 for place in range(1, columns)],
            -0.5,
            len(rows) - 0.5,
            colors="white",
            linewidth=1,
        )
        axes.hlines(
            [place - 0.5 for place in range(1, len(rows))],
            -0.5,
            columns - 0.5,
            colors="white",
            linewidth=1,
        )
    if len(owners) <= _NUMBERED_CELLS:
        for place, cell in enumerate(cells[: len(owners)]):
            row, column = divmod(place, columns)
            axes.text(
                column,
                row,
                str(place + 1),
                ha="center",
                va="center",
                fontsize=9,
                color=_on(palette[cell]),
            )


def _on(colour: str) -> str:
    """Black or white, whichever can be read on that colour (its luma by ITU-R BT.601)."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


class _Ribbon(NamedTuple):
    """A flow's place: where it starts in the shares before and in those after, and how many buckets wide it is."""

    flow: BucketFlow
    above: int
    below: int
    width: int

    def outline(self) -> list[tuple[float, float]]:
        """Its corners and curves, from 1 (above) down to 0 (below)."""
        side = [
            (self.above + (self.below - self.above) * across, 1 - down) for down, across in _CURVE
        ]
        return [*side, *((left + self.width, height) for left, height in reversed(side))]


def _flows(axes: Axes, step: ScenarioStep, colours: _Colours) -> None:
    """From each member's share before, above, to those after, below: pale what stays, in the new owner's colour what moves."""
    above, below = _starts(step.former_shares), _starts(step.shares)
    ribbons = _ribbons(step.flows, above, below)
    tints = [
        (*to_rgb(colours[flow.after]), 0.25 if flow.before == flow.after else 0.95)
        for flow, *_place in ribbons
    ]
    axes.add_collection(
        PolyCollection([ribbon.outline() for ribbon in ribbons], facecolors=tints, linewidths=0)
    )
    _blocks(axes, 1, above, step.former_shares, colours)
    _blocks(axes, -_BLOCK, below, step.shares, colours)
    axes.set_xlim(0, step.size)
    axes.set_ylim(-_BLOCK, 1 + _BLOCK)
    axes.set_xticks([])
    axes.set_yticks([-_BLOCK / 2, 1 + _BLOCK / 2], ["after", "before"])


def _starts(shares: Mapping[int, int]) -> dict[int, int]:
    """Where each member's share begins if they lie side by side in the order of ids."""
    members = sorted(shares)
    return dict(
        zip(members, accumulate((shares[member] for member in members), initial=0), strict=False)
    )


def _ribbons(
    flows: Mapping[BucketFlow, int], above: Mapping[int, int], below: Mapping[int, int]
) -> list[_Ribbon]:
    """The widest flows, in the order in which they are painted: those that move over those that stay."""
    lower, upper = dict(below), dict(above)
    ribbons = []
    for flow, width in sorted(flows.items()):
        ribbons.append(_Ribbon(flow, upper[flow.before], lower[flow.after], width))
        upper[flow.before] += width
        lower[flow.after] += width
    ribbons.sort(key=lambda ribbon: -ribbon.width)
    return sorted(ribbons[:_MOST_FLOWS], key=lambda ribbon: ribbon.flow.before != ribbon.flow.after)


def _blocks(
    axes: Axes,
    bottom: float,
    starts: Mapping[int, int],
    shares: Mapping[int, int],
    colours: _Colours,
) -> None:
    owning = [member for member, share in shares.items() if share]
    ranges = [(starts[member], shares[member]) for member in owning]
    edge = 0.8 if len(owning) <= _OUTLINED_BARS else 0
    axes.broken_barh(
        ranges,
        (bottom, _BLOCK),
        facecolors=[colours[member] for member in owning],
        edgecolors="white",
        linewidth=edge,
    )
    for member in owning:
        if shares[member] / sum(shares.values()) * _SHARES >= _DIGIT * (len(str(member)) + 0.3):
            place = (starts[member] + shares[member] / 2, bottom + 0.47 * _BLOCK)
            axes.text(
                *place,
                str(member),
                ha="center",
                va="center",
                fontsize=8.5,
                color=_on(colours[member]),
            )


def _bars(axes: Axes, step: ScenarioStep, colours: _Colours) -> None:
    """Each member's share in per cent, beside the fair one and the one before."""
    members = sorted({*step.shares, *step.former_shares})
    by_member = (step.former_shares, step.shares, fair(step.size, step.weights))
    before, after, ideal = (
        [100 * some.get(member, 0) / step.size for member in members] for some in by_member
    )
    places = range(len(members))
    axes.bar(places, after, 0.8, color=[colours[member] for member in members])
    if len(members) <= _OUTLINED_BARS:
        axes.bar(
            places, before, 0.8, facecolor="none", edgecolor=_INK, linestyle=":", linewidth=0.9
        )
    else:
        axes.stairs(
            before,
            [place - 0.5 for place in range(len(members) + 1)],
            color=_INK,
            linestyle=":",
            linewidth=0.9,
        )
    aims = {place: height for place, height in zip(places, ideal, strict=True) if height}
    axes.hlines(
        [*aims.values()],
        [place - 0.45 for place in aims],
        [place + 0.45 for place in aims],
        colors="black",
        linewidth=1.2,
    )
    every = ceil(len(members) * _DIGIT * (len(str(members[-1])) + 0.3) / _SHARES)
    axes.set_xticks(
        places[::every],
        [
            name_of(member) if len(members) <= len(_DISTINCT) else str(member)
            for member in members[::every]
        ],
    )
    axes.set_xlim(-0.6, len(members) - 0.4)
    tops = [max(heights) for heights in zip(before, after, ideal, strict=True)]
    axes.set_ylim(0, 1.25 * max(tops))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter("{x:g} %")
    if len(members) <= _COUNTED_BARS:
        for place, member, top in zip(places, members, tops, strict=True):
            text = f"{step.shares.get(member, 0):,}"
            axes.annotate(
                text,
                (place, top),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
                color=_INK,
            )
