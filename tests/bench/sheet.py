"""What every benchmark gives.

Sheets of figures, shown as a table and kept as JSON under .cache/bench, which git ignores.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parents[2] / ".cache" / "bench"
_WIDTH = 150
_CPUINFO = Path("/proc/cpuinfo")

Cell = str | int | float | None


class Sheet(NamedTuple):
    """One table of figures.

    `name` is that of its file; a column's unit stands in its title, as in "median ns"; `note` says
    what was measured.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def column(self, title: str) -> tuple[Cell, ...]:
        """The cells under a title."""
        place = self.columns.index(title)
        return tuple(row[place] for row in self.rows)


def publish(*sheets: Sheet) -> None:
    """Show the sheets and keep them for plots and comparisons."""
    console = Console(width=_WIDTH)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for sheet in sheets:
        console.print(_table(sheet))
        content = {
            "machine": machine(),
            "taken": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **sheet._asdict(),
        }
        (RESULTS / f"{sheet.name}.json").write_text(json.dumps(content, indent=1) + "\n")


def read(name: str) -> Sheet | None:
    """A sheet of an earlier run, if there was one."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    return Sheet(
        content["name"],
        content["title"],
        tuple(content["columns"]),
        tuple(tuple(row) for row in content["rows"]),
        content["note"],
    )


def machine() -> str:
    """What the figures were taken on: they mean little elsewhere, their ratios more."""
    models = [
        line.partition(":")[2].strip()
        for line in _CPUINFO.read_text().splitlines()
        if line.startswith("model name")
    ]
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} "
        f"cores, Linux {platform.release()}, Python {platform.python_version()}"
    )


def _table(sheet: Sheet) -> Table:
    shown = Table(title=sheet.title, caption=sheet.note or None)
    for position, title in enumerate(sheet.columns):
        shown.add_column(title, justify="right" if position else "left")
    for row in sheet.rows:
        shown.add_row(*(_text(cell) for cell in row))
    return shown


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:,.3f}" if abs(cell) < 10 else f"{cell:,.1f}"
    return f"{cell:,}" if isinstance(cell, int) else cell
