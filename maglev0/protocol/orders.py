"""Orders of operators to a member, which stay in ZooKeeper until an operator takes them back.

Pure: imports no I/O. Only a member writes its own record, so an order has its own znode, and the
member copies it into the record.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from maglev0.core.settings import FORMAT, read_bool, read_format, read_int, read_object
from maglev0.core.view import ACTIVE, DRAINING, DRY_RUN, FAILING, MAX_WEIGHT

MAX_ORDER_BYTES = 1024  # an order is some 50 bytes


class Order(NamedTuple):
    """An order to one member; `weight` replaces the weight of its flags, `None` does not."""

    drained: bool = False
    weight: int | None = None

    def encode(self) -> bytes:
        """The znode's data, JSON."""
        return json.dumps({"format": FORMAT, **self._asdict()}, sort_keys=True).encode()


class Wish(NamedTuple):
    """What a member's record must say: its state and its weight."""

    state: str
    weight: int


def decode(data: bytes) -> Order:
    """Read an order that anybody may have written; ValueError says what is wrong with it."""
    if len(data) > MAX_ORDER_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_ORDER_BYTES} are allowed")
    record = read_object(data)
    read_format(record, "give the order again")
    drained = read_bool(record, "drained")
    weight = record.get("weight")
    return Order(drained, None if weight is None else read_int(record, "weight", 0, MAX_WEIGHT))


def wish(order: Order, own_weight: int, *, healthy: bool, dry_run: bool, leaving: bool) -> Wish:
    """Return what the record of a member must say.

    A dry run serves nothing, with any order. A member that drains need not be healthy.
    """
    weight = own_weight if order.weight is None else order.weight
    if dry_run:
        return Wish(DRY_RUN, weight)
    if order.drained or leaving:
        return Wish(DRAINING, weight)
    return Wish(ACTIVE if healthy else FAILING, weight)
