"""What operators want of a member: orders that lie in ZooKeeper until they are taken back, and what becomes of them.

Pure: imports no I/O. Only a member writes its own record, so an order is a znode of its own, which the member copies.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from maglev0.core.settings import FORMAT, read_bool, read_format, read_int, read_object
from maglev0.core.view import ACTIVE, DRAINING, DRY_RUN, FAILING, MAX_WEIGHT

MAX_ORDER_BYTES = 1024  # an order is some 50 bytes


class Order(NamedTuple):
    """What is wanted of one member; `weight` is in place of its own flag's, `None` leaves that in force."""

    drained: bool = False
    weight: int | None = None

    def encode(self) -> bytes:
        """The znode's data, JSON."""
        return json.dumps({"format": FORMAT, **self._asdict()}, sort_keys=True).encode()


class Wish(NamedTuple):
    """What a member's record is to say of it."""

    state: str
    weight: int


def decode(data: bytes) -> Order:
    """Read an order, whoever wrote it; ValueError says what is wrong with it."""
    if len(data) > MAX_ORDER_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_ORDER_BYTES} are allowed")
    record = read_object(data)
    read_format(record, "give the order again")
    drained = read_bool(record, "drained")
    weight = record.get("weight")
    return Order(drained, None if weight is None else read_int(record, "weight", 0, MAX_WEIGHT))


def wish(order: Order, own_weight: int, *, healthy: bool, dry_run: bool, leaving: bool) -> Wish:
    """What the record of a member is to say: a dry run serves nothing whatever is ordered, and who drains need not be healthy."""
    weight = own_weight if order.weight is None else order.weight
    if dry_run:
        return Wish(DRY_RUN, weight)
    if order.drained or leaving:
        return Wish(DRAINING, weight)
    return Wish(ACTIVE if healthy else FAILING, weight)
