"""Pictures of the last figures.

`python -m tests.bench.plot` draws .cache/bench/*.png from the JSON beside them.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.sheet import RESULTS, Sheet, read

_COLOURS = ("#3b6ea5", "#c8553d")
_PARTS = ("#3b6ea5", "#6aa84f", "#c8553d", "#e0a030", "#888888")


def packets(sheet: Sheet) -> None:
    """Bars of what a packet costs, refused and accepted, cheapest refusal first."""
    rows = [
        row
        for row in zip(
            sheet.column("way"),
            sheet.column("refused ns"),
            sheet.column("accepted ns"),
            strict=True,
        )
        if row[1] is not None
    ]
    rows.sort(key=lambda row: -float(row[1] or 0))
    figure, axes = _canvas(10, 0.6 * len(rows) + 1.5)
    for shift, (what, place) in enumerate((("refused", 1), ("accepted", 2))):
        lengths = [float(row[place] or 0) for row in rows]
        bars = axes.barh(
            [position + 0.4 * (0.5 - shift) for position in range(len(rows))],
            lengths,
            0.38,
            label=what,
            color=_COLOURS[shift],
        )
        axes.bar_label(
            bars, [f"{length:,.0f}" if length else "" for length in lengths], padding=3, fontsize=8
        )
    axes.set_yticks(range(len(rows)), [str(row[0]) for row in rows])
    axes.set_xlabel("ns a packet, the generator's own work included")
    _finish(figure, axes, sheet)


def endtoend(sheet: Sheet) -> None:
    """Grouped bars: what a cluster's load takes of each node's processor."""
    sizes = sorted({int(nodes or 0) for nodes in sheet.column("nodes")})
    modes = list(dict.fromkeys(str(mode) for mode in sheet.column("XDP")))
    cost = {(int(row[0] or 0), str(row[1])): float(row[-1] or 0) for row in sheet.rows}
    figure, axes = _canvas(8, 4.5)
    for place, mode in enumerate(modes):
        heights = [cost[size, mode] for size in sizes]
        bars = axes.bar(
            [position + 0.27 * (place - 1) for position in range(len(sizes))],
            heights,
            0.25,
            label=f"XDP {mode}",
            color=_PARTS[place],
        )
        axes.bar_label(bars, [f"{height:.2f}" for height in heights], padding=2, fontsize=8)
    axes.set_xticks(range(len(sizes)), [f"{size} nodes" for size in sizes])
    axes.set_ylabel("µs of a processor for each packet, per node")
    _finish(figure, axes, sheet)


def handover(sheet: Sheet) -> None:
    """Stacked bars: what each kind of change takes, by part."""
    parts = [
        title
        for title in sheet.columns
        if title.endswith(" ms") and title.removesuffix(" ms") in PARTS
    ]
    labels = [
        f"{change}, {members} members"
        for change, members in zip(sheet.column("change"), sheet.column("members"), strict=True)
    ]
    figure, axes = _canvas(10, 0.3 * len(labels) + 1.5)
    ends = [0.0] * len(labels)
    for colour, part in zip(_PARTS, parts, strict=True):
        lengths = [float(cell or 0) for cell in sheet.column(part)]
        axes.barh(
            range(len(labels)),
            lengths,
            0.7,
            left=ends,
            label=part.removesuffix(" ms"),
            color=colour,
        )
        ends = [end + length for end, length in zip(ends, lengths, strict=True)]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ms, medians")
    _finish(figure, axes, sheet)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _finish(figure: Figure, axes: Axes, sheet: Sheet) -> None:
    axes.set_title(sheet.title)
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.text(0.01, 0.01, sheet.note, fontsize=6, color="#555555", wrap=True)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(RESULTS / f"{sheet.name}.png", dpi=130)


PARTS = ("watch", "table", "difference", "kernel", "protocol")
DRAWN: dict[str, Callable[[Sheet], None]] = {
    "packets-": packets,
    "endtoend": endtoend,
    "handover": handover,
}


def main() -> None:
    """Draw all that there are figures for, and say where it is."""
    for path in sorted(RESULTS.glob("*.json")):
        sheet = read(path.stem)
        draw = next((draw for name, draw in DRAWN.items() if path.stem.startswith(name)), None)
        if sheet is not None and draw is not None:
            draw(sheet)
            print(path.with_suffix(".png"))  # noqa: T201  the one thing there is to say


if __name__ == "__main__":
    main()
