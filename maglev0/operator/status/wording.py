"""Words, table cells and strip of `maglev0 status`, and the whole as plain text. Pure.

It imports no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from string import ascii_letters, digits
from typing import NamedTuple

from maglev0.core.view import ACTIVE, name_of
from maglev0.operator.status.page import SOUND, MemberRow, Status, count_text, member_names
from maglev0.protocol.orders import Order
from maglev0.telemetry.node_report import NodeReport

SHOWN_ROWS = 40  # what a screen holds; unusual members are shown beyond that
SHOWN_OTHERS = 20  # ignored znodes, and orders for absent members
PLAIN_WIDTH = 100
NOBODY = "-"
# The signs of the members in the strip, in their order; from the 62nd member on they repeat.
SYMBOLS = digits[1:] + ascii_letters
INDENT = "  "
GAP = "  "


class Cell(NamedTuple):
    """A piece of text; `is_bad` if an operator should look at it."""

    text: str
    is_bad: bool = False


class Column(NamedTuple):
    """One column of the members' table; numbers are right-aligned.

    If the width is too small, the column with the highest `rank` is dropped first; 0 never is.
    """

    heading: str
    cell: Callable[[MemberRow], Cell]
    rank: int = 0
    is_number: bool = True


class Slice(NamedTuple):
    """One cell of the strip: the owner of most of its buckets ("": none); `is_bad`: a fault."""

    owner: str
    is_bad: bool


def title(of: Status) -> str:
    """The cluster, and how long its view has been current."""
    since = "just now" if of.view_age_s is None else f"for {two_unit_duration(of.view_age_s)}"
    members = "1 member" if len(of.rows) == 1 else f"{len(of.rows)} members"
    return f"{of.vip}: view {of.view_number}, {since}; {members}"


def settings_line(of: Status) -> str:
    """The cluster's settings, without the secret seed."""
    agreed = of.settings
    what = f"{agreed.total_nodes} buckets by {agreed.hash_mode}, {agreed.hash_family}"
    return f"{what}, cluster MAC {agreed.cluster_mac}, lease {agreed.lease_ms / 1000:g} s"


def verdict_lines(of: Status) -> list[Cell]:
    """Whether every bucket has one owner, and the notes."""
    lines = [Cell(f"ALARM: {alarm}", is_bad=True) for alarm in of.alarms]
    if of.verdict == SOUND:
        lines.append(
            Cell(
                "every bucket has exactly one owner"
                + (", as far as is known" if of.findings.unknown else "")
            )
        )
    elif not of.alarms:
        overlaps, holes = len(of.findings.overlaps), len(of.findings.holes)
        lines.append(
            Cell(
                f"moving: {count_text(overlaps)} with more than one owner, {count_text(holes)}"
                " without an owner, by the last reports"
            )
        )
    if of.waits_for:
        lines.append(Cell(f"hand-over: waiting for {member_names(of.waits_for)}"))
    return [*lines, *(Cell(f"note: {note}", is_bad=True) for note in of.notes)]


def shown_rows(of: Status, *, everyone: bool) -> Sequence[MemberRow]:
    """The rows to show: all, or the first ones and every unusual one."""
    if everyone or len(of.rows) <= SHOWN_ROWS:
        return of.rows
    return [row for place, row in enumerate(of.rows) if place < SHOWN_ROWS or not row.is_plain]


def summary_line(of: Status, shown: Sequence[MemberRow]) -> str:
    """A line about the members that are not shown; "" if all are."""
    left_out = len(of.rows) - len(shown)
    if not left_out:
        return ""
    buckets = sum(row.buckets for row in of.rows) - sum(row.buckets for row in shown)
    return (
        f"and {left_out} more members without problems, with {count_text(buckets)};"
        " --all lists them"
    )


def _state(row: MemberRow) -> Cell:
    return Cell(
        f"{row.state} ({ordered(row.order)})" if row.order else row.state, row.state != ACTIVE
    )


def _lease(row: MemberRow) -> Cell:
    return (
        Cell(f"{max(0.0, row.report.lease_left_s):.1f} s", row.report.lease_left_s <= 0)
        if row.report
        else _UNKNOWN
    )


def _flows(row: MemberRow) -> Cell:
    return (
        _UNKNOWN if row.report is None or row.report.flows is None else Cell(str(row.report.flows))
    )


def _reported(row: MemberRow) -> Cell:
    age = f"{two_unit_duration(max(0.0, row.report_age_s))} ago"
    return (
        Cell("never", is_bad=True)
        if row.report is None
        else Cell(f"{age}, stale" if row.is_stale else age, row.is_stale)
    )


_UNKNOWN = Cell("?")
_COLUMNS = (
    Column("member", lambda row: Cell(row.member.name), is_number=False),
    Column("host", lambda row: Cell(row.member.host), 3, is_number=False),
    Column("state", _state, is_number=False),
    Column("weight", lambda row: Cell(str(row.member.weight)), 4),
    Column("buckets", lambda row: Cell(str(row.buckets)), 2),
    Column("share", lambda row: Cell(f"{row.share:.1%}")),
    Column("lease", _lease),
    Column("kept", lambda row: Cell(str(row.report.kept)) if row.report else _UNKNOWN, 5),
    Column("flows", _flows, 1),
    Column("up", lambda row: Cell(two_unit_duration(row.uptime_s)), 6),
    Column("reported", _reported),
)
_RUNS = Column("runs", lambda row: Cell(_runs(row)), 7, is_number=False)


def _runs(row: MemberRow) -> str:
    return (
        f"{row.member.dataplane}, XDP {row.report.xdp}, version {row.report.version}"
        if row.report
        else f"{row.member.dataplane}"
    )


def columns(of: Status, shown: Sequence[MemberRow], width: int | None = None) -> tuple[Column, ...]:
    """The columns of the members' table that fit into `width`.

    What all members run is a line of its own, not a column.
    """
    wanted = _COLUMNS if alike_line(of) else (*_COLUMNS, _RUNS)
    room = {
        column: len(GAP)
        + max(len(text) for text in (column.heading, *(column.cell(row).text for row in shown)))
        for column in wanted
    }
    for column in sorted(wanted, key=lambda column: -column.rank):
        if width is not None and column.rank and sum(room.values()) >= width:
            del room[column]
    return tuple(room)


def alike_line(of: Status) -> str:
    """What all members run; "" if that differs, or there are no members."""
    kinds = {_runs(row) for row in of.rows}
    return f"all run {kinds.pop()}" if len(kinds) == 1 else ""


def problem_lines(shown: Sequence[MemberRow]) -> list[str]:
    """The problems that the daemons report."""
    return [
        f"{row.member.name}: {_problem(row.report)}"
        for row in shown
        if row.report and (row.report.problems or not row.report.able)
    ]


def other_lines(of: Status) -> list[str]:
    """Orders for absent members, and ignored znodes."""
    orders = [
        f"{name_of(member)} (absent): {ordered(order)}" for member, order in of.standing.items()
    ]
    return [
        *_first(orders, "orders"),
        *_first(
            [f"ignored members/{child.name}: {child.reason}" for child in of.ignored],
            "ignored znodes",
        ),
    ]


def _first(lines: list[str], what: str) -> list[str]:
    left_out = len(lines) - SHOWN_OTHERS
    return lines if left_out <= 0 else [*lines[:SHOWN_OTHERS], f"and {left_out} more {what}"]


def _problem(report: NodeReport) -> str:
    reasons = "; ".join(report.problems)
    return reasons if report.able else f"cannot serve{': ' if reasons else ''}{reasons}"


def ordered(order: Order) -> str:
    """An order in words."""
    words = [
        *(["drained"] if order.drained else []),
        *([f"weight {order.weight}"] if order.weight is not None else []),
    ]
    return f"ordered: {', '.join(words) or 'nothing'}"


def two_unit_duration(seconds: float) -> str:
    """A duration in its two largest units, rounded down."""
    whole = int(seconds)
    for unit, size, lower, lower_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // lower_size} {lower}"
    return f"{whole} s"


def symbols(of: Status) -> dict[str, str]:
    """Each member's sign in the strip, by its name."""
    return {row.member.name: SYMBOLS[place % len(SYMBOLS)] for place, row in enumerate(of.rows)}


def strip(of: Status, width: int) -> list[Slice]:
    """The buckets in their order, in at most `width` cells."""
    total = len(of.owners)
    count = min(width, total)
    faulty = sorted({*of.findings.overlaps, *of.findings.holes}) if of.alarms else []
    bad = {(bucket - 1) * count // total for bucket in faulty}
    # Rounded up: a cell holds the buckets whose part of the strip begins in it.
    starts = [-(-cell * total // count) for cell in range(count + 1)]
    mostly = (Counter(of.owners[start:end]).most_common(1)[0][0] for start, end in pairwise(starts))
    return [Slice(owner, cell in bad) for cell, owner in enumerate(mostly)]


def plain(of: Status, *, everyone: bool) -> list[str]:
    """Everything as lines, in ASCII except for names from other machines."""
    shown, signs = shown_rows(of, everyone=everyone), symbols(of)
    bar = "".join(
        "!" if part.is_bad else signs.get(part.owner, NOBODY) for part in strip(of, PLAIN_WIDTH)
    )
    lines = [
        settings_line(of),
        alike_line(of),
        *(line.text for line in verdict_lines(of)),
        f"[{bar}]",
    ]
    lines += [
        *_table(of, shown, signs),
        summary_line(of, shown),
        *problem_lines(shown),
        *other_lines(of),
    ]
    return [title(of), *(INDENT + line for line in lines if line)]


def _table(of: Status, shown: Sequence[MemberRow], signs: dict[str, str]) -> Iterator[str]:
    wanted = columns(of, shown)
    grid = [["", *(column.heading for column in wanted)]]
    grid += [
        [signs[row.member.name], *(column.cell(row).text for column in wanted)] for row in shown
    ]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    right = [False, *(column.is_number for column in wanted)]
    for line in grid if shown else []:
        padded = (
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, right, strict=True)
        )
        yield GAP.join(padded).rstrip()
