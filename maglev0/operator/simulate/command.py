"""maglev0 simulate: show who would own which buckets, and what a change would move.

Usage:
  maglev0 simulate [--total-nodes=<N>]... [options] [EVENT...]

Options:
  --total-nodes=<N>       buckets, 1 to 1048576; give it several times to compare sizes (left out:
                          65537)
  --members=<LIST>        the members at the start: 1-4:2,7 are backend-1 to backend-4 with weight
                          2, and backend-7 with weight 1 (left out: 1-5)
  --live                  start from members and settings of a running cluster, which is only read
  --plot=<FILE>           draw it, as .png or .svg: who owns which buckets before and after, and
                          what moved
{options}  -h, --help              show this text

Events happen in the order given; left out, the last member leaves:
  backend-6 joins           +6, or +6:2 with weight 2
  backend-3 leaves          -3
  backend-2 gets weight 3   2:3; and 2:0 moves what a drain moves
  several at once           +6-8:2,12 joins four, -1,3 loses two

Nothing is changed. Shares are shown relative to the fair share, which is proportional to the
weight. "had to" counts buckets of members that leave or get less weight, and buckets that members
get because they join or get more. "disruption" counts buckets that moved between members that the
change does not concern.

For example:
  maglev0 simulate --members=1-10 --total-nodes=64 --total-nodes=65537 -3   compare table sizes
  maglev0 simulate --live --plot=without-3.png -3                           backend-3 leaves

Exit status: 0 done, 1 a cluster cannot be read or a file cannot be written, 2 wrong command line,
130 ended by Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from maglev0.core.text import printable
from maglev0.core.view import DRY_RUN
from maglev0.errors import ConfigError, MaglevError, ZooKeeperError
from maglev0.operator import cluster_address, command
from maglev0.operator.simulate import scenario as scenarios
from maglev0.operator.simulate.scenario import Scenario, ScenarioStep, Weights
from maglev0.telemetry import observer

_DEFAULT_SIZE = 65_537
_DEFAULT_MEMBERS = "1-5"
_FORMATS = (".png", ".svg")
MOST_DRAWN = 12  # changes in one picture; each is a row, three inches high
LONG_S = 3.0  # a longer computation is announced
_LEAVES = re.compile(r"^-(?=[0-9])")  # docopt would read -3 as an option
_MINUS = "\N{MINUS SIGN}"
_HEADINGS = ("view", "change", "members", "largest", "smallest", "moved", "had to", "disruption")


def main(arguments: list[str]) -> int:
    """Run `maglev0 simulate` with these arguments; returns the exit status."""
    return command.run(
        __doc__.format(options=cluster_address.OPTIONS),
        "simulate",
        [_LEAVES.sub(_MINUS, word) for word in arguments],
        _simulate,
    )


def _simulate(arguments: dict[str, Any]) -> int:
    asked = _asked(arguments)
    plot = None if arguments["--plot"] is None else _plotter(arguments["--plot"], asked)
    sheets: dict[int, list[dict[str, Any]]] = {size: [] for size in asked.sizes}
    drawn: list[ScenarioStep] = []
    for step in _announced(asked):
        sheets[step.size].append(_described(step))
        if plot is not None and step.number:
            drawn.append(step)
    if plot is not None:
        plot.write_picture(plot.figure(asked, drawn), Path(arguments["--plot"]))
    sys.stdout.write(f"{json.dumps(_whole(sheets)) if arguments['--json'] else _text(sheets)}\n")
    return 0


def _asked(arguments: dict[str, Any]) -> Scenario:
    events = [scenarios.parse_event(word.replace(_MINUS, "-", 1)) for word in arguments["EVENT"]]
    sizes = [scenarios.parse_size(text) for text in arguments["--total-nodes"]]
    if not arguments["--live"]:
        members = scenarios.parse_members(arguments["--members"] or _DEFAULT_MEMBERS)
        return scenarios.scenario(
            sizes or [_DEFAULT_SIZE], members, events or scenarios.last_leaves(members)
        )
    if arguments["--members"] is not None:
        raise ConfigError(
            "--live and --members exclude each other: the members are those of a running cluster,"
            " or those of the list"
        )
    size, members = asyncio.run(_live(cluster_address.read(arguments)))
    return scenarios.scenario(sizes or [size], members, events or scenarios.last_leaves(members))


async def _live(address: cluster_address.ClusterAddress) -> tuple[int, Weights]:
    """The number of buckets of a running cluster, and the weights with which its members serve."""
    which = cluster_address.vip(address)
    async with cluster_address.session(address) as zookeeper:
        seen = await observer.observe(
            zookeeper, await cluster_address.cluster(zookeeper, address, which)
        )
    serving = seen.view.weights(dry_run=False)
    if not serving:
        raise ZooKeeperError(
            f"no member of the cluster of {which} serves, so there is nothing to start from;"
            " give --members=LIST"
        )
    return seen.settings.total_nodes, {
        member.id: serving.get(member.name, 0)
        for member in seen.view.members
        if member.state != DRY_RUN
    }


def _plotter(path: str, asked: Scenario) -> ModuleType:
    """The module that draws.

    Raises ConfigError, before anything is computed, if the picture cannot be drawn.
    """
    if not Path(path).parent.is_dir():
        raise ConfigError(
            f"--plot={printable(path)}: the directory {printable(str(Path(path).parent))} does not"
            " exist"
        )
    changes = len(asked.sizes) * len(asked.events)
    if not path.endswith(_FORMATS):
        raise ConfigError(
            f"--plot={printable(path)}: the name must end in {' or '.join(_FORMATS)}, which chooses"
            " the format"
        )
    if not 1 <= changes <= MOST_DRAWN:
        raise ConfigError(
            f"--plot: a picture shows 1 to {MOST_DRAWN} changes, not {changes} (events times sizes)"
        )
    try:
        from maglev0.operator.simulate import plot  # noqa: PLC0415  matplotlib is optional
    except ModuleNotFoundError as error:
        raise MaglevError(
            "--plot needs matplotlib, which is not installed:"
            f" {sys.executable} -m pip install 'matplotlib>=3.8'"
        ) from error
    return plot


def _announced(asked: Scenario) -> Iterator[ScenarioStep]:
    """The steps; stderr announces a long computation, and a terminal there shows the progress."""
    steps = scenarios.evaluate(asked)
    if asked.takes_s <= LONG_S:
        return steps
    sys.stderr.write(
        f"maglev0: computing {asked.tables} tables of up to {max(asked.sizes):,} buckets; that may"
        f" take {_duration(asked.takes_s)}\n"
    )
    if not sys.stderr.isatty():
        return steps
    from rich.console import Console  # noqa: PLC0415  most answers need no progress bar
    from rich.progress import track  # noqa: PLC0415

    return iter(
        track(steps, "tables", total=asked.tables, console=Console(stderr=True), transient=True)
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _described(step: ScenarioStep) -> dict[str, Any]:
    """The figures of one view, as in the JSON."""
    fair = scenarios.fair(step.size, step.weights)
    members = {
        member: {"weight": step.weights[member], "buckets": count, "fair": fair[member]}
        for member, count in step.shares.items()
    }
    return {
        "view": step.number,
        "event": None if step.event is None else step.event.text,
        **step.balance._asdict(),
        **step.movement._asdict(),
        "members": members,
    }


def _whole(sheets: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    return {"sizes": [{"total_nodes": size, "views": views} for size, views in sheets.items()]}


def _text(sheets: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """A table for each size; all have the same column widths."""
    rows = {size: [_cells(size, view) for view in views] for size, views in sheets.items()}
    widths = [
        max(map(len, column))
        for column in zip(_HEADINGS, *chain.from_iterable(rows.values()), strict=True)
    ]
    parts = [
        "\n".join(
            [
                f"{size:,} buckets",
                *(_line(cells, widths) for cells in (_HEADINGS, *rows[size])),
            ]
        )
        for size in rows
    ]
    return "\n\n".join(parts)


def _cells(size: int, view: Mapping[str, Any]) -> tuple[str, ...]:
    moves = [f"{view[kind]:,} ({view[kind] / size:.2%})" for kind in scenarios.Movement._fields]
    balance = [f"{view[kind]:.2%}" for kind in scenarios.Balance._fields]
    return (
        str(view["view"]),
        scenarios.shown(view["event"] or ""),
        str(len(view["members"])),
        *balance,
        *(moves if view["view"] else [""] * len(moves)),
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The cells of a row: figures right-aligned, the change, which is a word, left-aligned."""
    number, change, *figures = cells
    right = (f"{figure:>{width}}" for figure, width in zip(figures, widths[2:], strict=True))
    return "  ".join([f"{number:>{widths[0]}}", f"{change:<{widths[1]}}", *right]).rstrip()
