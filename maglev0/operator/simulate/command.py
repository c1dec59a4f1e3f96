"""maglev0 simulate: who would own what, and what would move; nothing is touched.

Usage:
  maglev0 simulate [--total-nodes=<N>]... [options] [EVENT...]

Options:
  --total-nodes=<N>       node numbers (buckets), 1 to 1048576; several times to compare sizes (left out: 65537)
  --members=<LIST>        the members at the start: 1-4:2,7 are backend-1 to backend-4 of weight 2, and backend-7 of weight 1 (left out: 1-5)
  --live                  start from the members and the settings of a running cluster, which is only read
  --plot=<FILE>           draw it too, as .png or .svg: who owns which buckets before and after, and what moved
{options}  -h, --help              show this text

Events, one after the other; left out, the last member leaves:
  backend-6 joins           +6, or +6:2 with weight 2
  backend-3 leaves          -3
  backend-2 gets weight 3   2:3; and 2:0 moves what a drain moves
  several at once           +6-8:2,12 joins four, -1,3 loses two

Shares are shown as a part of the fair one, which is in proportion to weights. Had to move: what a member owned that leaves or weighs less, or
owns now that joins or weighs more. Disruption: what moved between members that have nothing to do with the change.

For example:
  maglev0 simulate --members=1-10 --total-nodes=64 --total-nodes=65537 -3   what becomes of a small and of a large table
  maglev0 simulate --live --plot=without-3.png -3                           what if backend-3 of this cluster leaves

Exit status: 0 done, 1 a cluster cannot be read or a file not written, 2 a word of the command line is wrong, 130 ended by Ctrl-C.
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
MOST_DRAWN = 12  # changes in one picture: each is a row of it, three inches high
LONG_S = 3.0  # what may take longer is announced
_LEAVES = re.compile(r"^-(?=[0-9])")  # where docopt would see an option
_MINUS = "\N{MINUS SIGN}"
_HEADINGS = ("view", "change", "members", "largest", "smallest", "moved", "had to", "disruption")


def main(arguments: list[str]) -> int:
    """Run `maglev0 simulate` with what stands behind `simulate` on the command line; returns the exit status."""
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
        plot.save(plot.figure(asked, drawn), Path(arguments["--plot"]))
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
            "--live and --members: the members are either those of a running cluster or those of a list"
        )
    size, members = asyncio.run(_live(cluster_address.read(arguments)))
    return scenarios.scenario(sizes or [size], members, events or scenarios.last_leaves(members))


async def _live(where: cluster_address.ClusterAddress) -> tuple[int, Weights]:
    """How many node numbers a running cluster has, and its members with the weights that they serve with."""
    which = cluster_address.vip(where)
    async with cluster_address.session(where) as zookeeper:
        seen = await observer.observe(
            zookeeper, await cluster_address.cluster(zookeeper, where, which)
        )
    serving = seen.view.weights(dry_run=False)
    if not serving:
        raise ZooKeeperError(
            f"no member of the cluster of {which} serves: there is nothing to start from; --members=LIST says who would"
        )
    return seen.settings.total_nodes, {
        member.id: serving.get(member.name, 0)
        for member in seen.view.members
        if member.state != DRY_RUN
    }


def _plotter(path: str, asked: Scenario) -> ModuleType:
    """What draws, which no other command needs; ConfigError where the picture cannot be drawn, before anything is worked out."""
    if not Path(path).parent.is_dir():
        raise ConfigError(
            f"--plot={printable(path)}: there is no directory {printable(str(Path(path).parent))}"
        )
    changes = len(asked.sizes) * len(asked.events)
    if not path.endswith(_FORMATS):
        raise ConfigError(
            f"--plot={printable(path)}: the name must end in {' or '.join(_FORMATS)}, which says what is written"
        )
    if not 1 <= changes <= MOST_DRAWN:
        raise ConfigError(
            f"--plot: a picture shows 1 to {MOST_DRAWN} changes, and these are {changes} (events times sizes)"
        )
    try:
        from maglev0.operator.simulate import plot  # noqa: PLC0415  brings matplotlib, which is optional
    except ModuleNotFoundError as error:
        raise MaglevError(
            f"--plot needs matplotlib, which is not installed: {sys.executable} -m pip install 'matplotlib>=3.8'"
        ) from error
    return plot


def _announced(asked: Scenario) -> Iterator[ScenarioStep]:
    """The steps; where they take long, stderr says so before, and a terminal there shows how far it is."""
    steps = scenarios.evaluate(asked)
    if asked.takes_s <= LONG_S:
        return steps
    sys.stderr.write(
        f"maglev0: {asked.tables} tables of up to {max(asked.sizes):,} node numbers; that may take {_duration(asked.takes_s)}\n"
    )
    if not sys.stderr.isatty():
        return steps
    from rich.console import Console  # noqa: PLC0415  most answers come at once and need none
    from rich.progress import track  # noqa: PLC0415

    return iter(
        track(steps, "tables", total=asked.tables, console=Console(stderr=True), transient=True)
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _described(step: ScenarioStep) -> dict[str, Any]:
    """One view in figures, as JSON has it."""
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
    """A table for each size, all with the same columns."""
    rows = {size: [_cells(size, view) for view in views] for size, views in sheets.items()}
    widths = [
        max(map(len, column))
        for column in zip(_HEADINGS, *chain.from_iterable(rows.values()), strict=True)
    ]
    parts = [
        "\n".join(
            [
                f"{size:,} node numbers",
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
    """The cells of a row, figures to the right and the change, which is a word, to the left."""
    number, change, *figures = cells
    right = (f"{figure:>{width}}" for figure, width in zip(figures, widths[2:], strict=True))
    return "  ".join([f"{number:>{widths[0]}}", f"{change:<{widths[1]}}", *right]).rstrip()
