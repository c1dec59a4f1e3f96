"""Draws the parts of a scenario's picture: grids of buckets, flows between shares, and bars.

Each function draws one step into axes of matplotlib. Buckets count from 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import ceil, isqrt
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.ticker import MaxNLocator

from maglev0.core.view import name_of
from maglev0.operator.simulate.scenario import BucketFlow, ScenarioStep, fair

STILL = "#ececec"  # a bucket that did not move
INK = "#333333"
SHARES_WIDTH = 5.6  # of flows and bars, in inches
NAMED_MEMBERS = 8  # up to here members have colours of their own, and bars have room for names
_NONE = "#ffffff"  # no bucket
_BLOCK = 0.18  # the height of a share's block, in parts of a flow's length
_LINED_CELLS = 1024  # up to here lines separate cells
_NUMBERED_CELLS = 100  # up to here cells have room for their number
_MOST_FLOWS = 20_000  # the widest ones; with so many, the others are narrower than a dot
# The points of a flow's side: how far down, how far across.
_CURVE = tuple((step / 16, (step / 16) ** 2 * (3 - step / 8)) for step in range(17))
_OUTLINED_BARS = 32  # with more, one line above all bars shows the shares before
_DIGIT = 0.067  # the width of a digit, in inches
_COUNTED_BARS = 12

Colours = Mapping[int, str]


def draw_grid(axes: Axes, owners: Sequence[int | None], colours: Colours) -> None:
    """Draw buckets in their order, line by line from the upper left; None did not move."""
    columns = isqrt(len(owners) - 1) + 1
    palette = [_NONE, STILL, *colours.values()]
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
                color=_readable_on(palette[cell]),
            )


def _readable_on(colour: str) -> str:
    """Black or white, whichever is readable on that colour (luma by ITU-R BT.601)."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


class _Ribbon(NamedTuple):
    """The place of a flow: its start in the shares before and after, and its width in buckets."""

    flow: BucketFlow
    above: int
    below: int
    width: int

    def outline(self) -> list[tuple[float, float]]:
        """Its outline, from height 1 (above) down to 0 (below)."""
        side = [
            (self.above + (self.below - self.above) * across, 1 - down) for down, across in _CURVE
        ]
        return [*side, *((left + self.width, height) for left, height in reversed(side))]


def draw_flows(axes: Axes, step: ScenarioStep, colours: Colours) -> None:
    """Draw flows from the shares before, above, to the shares after, below.

    Buckets that stay are pale, those that move have the colour of the new owner.
    """
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
    """Where each member's share begins if shares lie side by side in the order of ids."""
    members = sorted(shares)
    return dict(
        zip(members, accumulate((shares[member] for member in members), initial=0), strict=False)
    )


def _ribbons(
    flows: Mapping[BucketFlow, int], above: Mapping[int, int], below: Mapping[int, int]
) -> list[_Ribbon]:
    """The widest flows, in painting order: those that move cover those that stay."""
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
    colours: Colours,
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
        if shares[member] / sum(shares.values()) * SHARES_WIDTH >= _DIGIT * (
            len(str(member)) + 0.3
        ):
            place = (starts[member] + shares[member] / 2, bottom + 0.47 * _BLOCK)
            axes.text(
                *place,
                str(member),
                ha="center",
                va="center",
                fontsize=8.5,
                color=_readable_on(colours[member]),
            )


def draw_bars(axes: Axes, step: ScenarioStep, colours: Colours) -> None:
    """Draw each member's share in per cent, with the fair share and the share before."""
    members = sorted({*step.shares, *step.former_shares})
    by_member = (step.former_shares, step.shares, fair(step.size, step.weights))
    before, after, ideal = (
        [100 * some.get(member, 0) / step.size for member in members] for some in by_member
    )
    places = range(len(members))
    axes.bar(places, after, 0.8, color=[colours[member] for member in members])
    if len(members) <= _OUTLINED_BARS:
        axes.bar(places, before, 0.8, facecolor="none", edgecolor=INK, linestyle=":", linewidth=0.9)
    else:
        axes.stairs(
            before,
            [place - 0.5 for place in range(len(members) + 1)],
            color=INK,
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
    every = ceil(len(members) * _DIGIT * (len(str(members[-1])) + 0.3) / SHARES_WIDTH)
    axes.set_xticks(
        places[::every],
        [
            name_of(member) if len(members) <= NAMED_MEMBERS else str(member)
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
                color=INK,
            )
