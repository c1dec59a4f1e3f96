"""What the daemon logs about ownership.

Pure: imports no I/O.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection

from maglev0.core.assignment import Assignment
from maglev0.core.view import name_of
from maglev0.errors import DataplaneError

log = logging.getLogger(__name__)

LISTED_NODES = 64  # up to here each bucket has its line, beyond it each member

_Lines = tuple[str, ...]


class OwnershipLog:
    """Logs the owners and what the kernel holds, whenever that is news.

    `read_back` returns the buckets that the kernel has in force. Where it fails nothing is logged,
    and the next call tries again.
    """

    def __init__(
        self,
        my_name: str,
        label: str,
        total_nodes: int,
        read_back: Callable[[], Awaitable[frozenset[int]]],
    ) -> None:
        self._my_name = my_name
        self._label = label
        self._total_nodes = total_nodes
        self._read_back = read_back
        self._ownership: Assignment | None = None  # as logged last
        self._held: frozenset[int] = frozenset()

    def reset(self) -> None:
        """Forget what was logged: the next state is news, whatever it is."""
        self._ownership, self._held = None, frozenset()

    async def serving(self, ownership: Assignment | None, held: frozenset[int]) -> None:
        """Log the owners and the kernel's buckets of a node that has finished a hand-over."""
        if ownership is None or (ownership is self._ownership and held == self._held):
            return
        lines = ownership_lines(ownership, self._my_name)
        if await self._log_kernel(lines):
            self._ownership, self._held = ownership, held

    async def outside(self) -> None:
        """Log the kernel's buckets of a node that is no member any more."""
        if self._ownership is not None and await self._log_kernel(()):
            self.reset()

    async def _log_kernel(self, before: _Lines) -> bool:
        try:
            in_force = await self._read_back()
        except DataplaneError as error:
            log.debug("ownership not logged: %s", error)
            return False
        for line in (*before, kernel_line(self._label, in_force, self._total_nodes)):
            log.info("%s", line)
        return True


def ownership_lines(ownership: Assignment, my_name: str) -> _Lines:
    """Return a line of the live members, then the owners of all buckets."""
    live = f"[{' '.join(map(str, ownership.ids))}]"
    if len(ownership.table) <= LISTED_NODES:
        return live, *(
            f"{_label(owner, my_name)} is responsible for node {bucket}"
            for bucket, owner in enumerate(ownership.table, 1)
        )
    return live, *_shares(ownership, my_name)


def kernel_line(dataplane: str, held: Collection[int], total_nodes: int) -> str:
    """Return what the kernel has in force, as it was read back."""
    if total_nodes <= LISTED_NODES:
        return f"{dataplane} Nodes:  {','.join(map(str, sorted(held)))}".rstrip()
    return f"{dataplane} Nodes:  {len(held)} of {total_nodes}"


def _shares(ownership: Assignment, my_name: str) -> _Lines:
    counts = Counter(ownership.table)
    total = len(ownership.table)
    # By id and not from the table: a member of little weight may own nothing.
    return tuple(
        f"{_label(name, my_name)} is responsible for"
        f" {counts[name]} nodes ({counts[name] / total:.2%})"
        for name in map(name_of, ownership.ids)
    )


def _label(name: str, my_name: str) -> str:
    return f"{name} (me!)" if name == my_name else name
