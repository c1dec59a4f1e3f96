"""maglev0 weight: give a member another weight than its own flags do.

Usage:
  maglev0 weight [options] ID WEIGHT

WEIGHT is 0 to 1000, relative to the weights of the other members, or "own": the weight in the
member's own flags.

Options:
{options}{waiting}  -h, --help              show this text

The order is stored in ZooKeeper and survives restarts of the member; the weight "own" withdraws it.

With --json each line is one object: member, present, state, weight, held (buckets in force),
connections, kept (buckets that it no longer owns but in which it keeps connections), done.

Exit status: 0 carried out, or left for an absent member; 1 not carried out in time, or no answer;
2 wrong flag.
"""

from __future__ import annotations

import re
from typing import Any

from maglev0.core.text import printable
from maglev0.core.view import MAX_WEIGHT
from maglev0.errors import ConfigError
from maglev0.operator.orders import ordering
from maglev0.operator.orders.ordering import MemberLook, OrderRequest
from maglev0.protocol.orders import Order

OWN = "own"


def main(arguments: list[str]) -> int:
    """Run `maglev0 weight` with these arguments; returns the exit status."""
    return ordering.run(__doc__, "weight", arguments, _request)


def _request(arguments: dict[str, Any]) -> OrderRequest:
    weight = _weight(arguments["WEIGHT"])

    def weighed(order: Order) -> Order:
        return order._replace(weight=weight)

    def is_done(look: MemberLook) -> bool:
        return look.record is not None and weight in (None, look.record.weight) and look.is_settled

    return OrderRequest(ordering.member_id(arguments["ID"]), weighed, is_done)


def _weight(text: str) -> int | None:
    if text == OWN:
        return None
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or int(text) > MAX_WEIGHT:
        raise ConfigError(
            f"{printable(text)}: a weight is a whole number from 0 to {MAX_WEIGHT}, or {OWN}"
        )
    return int(text)
