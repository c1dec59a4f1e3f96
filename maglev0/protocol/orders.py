"""The orders that operators give to a member, and what its record says because of them.

Pure: imports no I/O. Orders lie in ZooKeeper until they are taken back. Only a member writes its
own record, so an order is a znode of its own, which the member copies.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from maglev0.core.settings import FORMAT, read_bool, read_format, read_int, read_object
from maglev0.core.view import ACTIVE, DRAINING, DRY_RUN, FAILING, MAX_WEIGHT

MAX_ORDER_BYTES = 1024  # an order is some 50 bytes


class Order(NamedTuple):
    """What is ordered of one member; `weight` replaces its own flag's, `None` does not."""

    drained: bool = False
    weight: int | None = None

    def encode(self) -> bytes:
        """The znode's data, JSON."""
        return json.dumps({"format": FORMAT, **self._asdict()}, sort_keys=True).encode()


class Wish(NamedTuple):
    """What a member's record has to say."""

    state: str
    weight: int


def decode(data: bytes) -> Order:
    """Read an order from anybody; ValueError says what is wrong with it."""
    if len(data) > MAX_ORDER_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_ORDER_BYTES} are allowed")
    record = read_object(data)
    read_format(record, "give the order again")
    drained = read_bool(record, "drained")
    weight = record.get("weight")
    return Order(drained, None if weight is None else read_int(record, "weight", 0, MAX_WEIGHT))


def wish(order: Order, own_weight: int, *, healthy: bool, dry_run: bool, leaving: bool) -> Wish:
    """What the record of a member has to say.

    A node in a dry run serves nothing, whatever is ordered; a node that drains need not be healthy.
    """
    weight = own_weight if order.weight is None else order.weight
    if dry_run:
        return Wish(DRY_RUN, weight)
    if order.drained or leaving:
        return Wish(DRAINING, weight)
    return Wish(ACTIVE if healthy else FAILING, weight)
