"""What the daemon prints of ownership, as lines.

Pure: imports no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from maglev0.core.assignment import Assignment
from maglev0.core.view import name_of

LISTED_NODES = 64  # up to here each node number has its line, beyond it each backend

_Lines = tuple[str, ...]


def ownership_lines(ownership: Assignment, my_name: str) -> _Lines:
    """The live members, then who is responsible for what."""
    live = f"[{' '.join(map(str, ownership.ids))}]"
    if len(ownership.table) <= LISTED_NODES:
        return live, *(
            f"{_called(owner, my_name)} is responsible for node {number}"
            for number, owner in enumerate(ownership.table, 1)
        )
    return live, *_shares(ownership, my_name)


def kernel_line(dataplane: str, held: Collection[int], total_nodes: int) -> str:
    """What the kernel really has, read back from it."""
    if total_nodes <= LISTED_NODES:
        return f"{dataplane} Nodes:  {','.join(map(str, sorted(held)))}".rstrip()
    return f"{dataplane} Nodes:  {len(held)} of {total_nodes}"


def _shares(ownership: Assignment, my_name: str) -> _Lines:
    counts = Counter(ownership.table)
    total = len(ownership.table)
    names = map(
        name_of, ownership.ids
    )  # not those of the table: a member of little weight may own nothing
    return tuple(
        f"{_called(name, my_name)} is responsible for {counts[name]} nodes ({counts[name] / total:.2%})"
        for name in names
    )


def _called(name: str, my_name: str) -> str:
    return f"{name} (me!)" if name == my_name else name
