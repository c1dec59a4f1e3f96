"""How the demonstration looks: drawing, bars and strips, in colour where there is a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from maglev0.lab.testbed.cluster import LabSettings
    from maglev0.lab.testbed.node_log import Picture
    from maglev0.lab.traffic.report import Report

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
# A bar of all answers; with name and figures it fills a line of 80 columns.
_BAR_CELLS = 60
# More boxes do not fit in a line of 80 columns.
_DRAWN_NODES = 5


class Narrator:
    """Writes the demonstration to stdout."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(Text(text))

    def chapter(self, title: str) -> None:
        """Begin the next part."""
        self._console.print()
        self._console.print(Text(title, style="bold"))

    def good(self, text: str) -> None:
        """Print that something is as promised."""
        self._console.print(Text(f"ok: {text}", style="green"))

    def bad(self, text: str) -> None:
        """Print that something is not as promised."""
        self._console.print(Text(f"NOT AS PROMISED: {text}", style="bold red"))

    def drawing(self, settings: LabSettings) -> None:
        """Print how the lab is wired."""
        names = [f"backend-{number}" for number in range(1, settings.nodes + 1)]
        if len(names) > _DRAWN_NODES:
            names = [*names[:3], "…", names[-1]]
        boxes = "  ".join(f"[ {name} ]" for name in names)
        ticks = "  ".join("|".center(len(name) + 4) for name in names)
        line = "=" * max(len(boxes), 60)
        vip = f"{settings.vip}, on every node at once"
        times = f"tick {settings.tick_ms} ms, session timeout {settings.session_timeout_s:g} s"
        for text in (
            "    clients: one host with many addresses, which all ask the VIP",
            "        |",
            f"  ==={line}===  traffic: every node gets every packet",
            f"     {ticks}",
            f"     {boxes}   VIP {vip}",
            f"     {ticks}",
            f"  ==={line}===  management",
            "        |",
            f"    ZooKeeper: which nodes are alive ({times})",
        ):
            self.say(text)

    def owners(self, picture: Picture) -> None:
        """Print the owner of each bucket as a digit, above 64 buckets only the counts."""
        if picture.owners:
            strip = Text("  ")
            for _, name in sorted(picture.owners.items()):
                strip.append(name.removeprefix("backend-")[-1], style=_colour(name))
            self._console.print(strip)
        self.say("  " + ", ".join(f"{name}: {count}" for name, count in _in_order(picture.shares)))

    def bars(self, report: Report) -> None:
        """Print each node's share of the answers."""
        shares = report.shares()
        total = max(1, sum(shares.values()))
        grid = Table.grid(padding=(0, 2))
        for name, answered in _in_order(shares):
            bar = Text("█" * max(1, round(_BAR_CELLS * answered / total)), style=_colour(name))
            grid.add_row(
                Text(f"  {name}"), Text(f"{answered:5}"), Text(f"{answered / total:6.1%}"), bar
            )
        self._console.print(grid)


def _in_order(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (len(item[0]), item[0]))


def _colour(name: str) -> str:
    digits = name.removeprefix("backend-")
    return _COLOURS[int(digits) % len(_COLOURS)] if digits.isdigit() else "white"
