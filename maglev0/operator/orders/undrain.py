"""maglev0 undrain: make a drained member take part again.

Usage:
  maglev0 undrain [options] ID

Options:
{options}{waiting}  -h, --help              show this text

It is carried out when the member has its share again, or has none because its health checks fail or
its weight is 0.

With --json each line is one object: member, present, state, weight, held (buckets in force),
connections, kept (buckets that it no longer owns but in which it keeps connections), done.

Exit status: 0 carried out, or left for an absent member; 1 not carried out in time, or no answer;
2 wrong flag.
"""

from __future__ import annotations

from typing import Any

from maglev0.core.view import DRAINING
from maglev0.operator.orders import ordering
from maglev0.operator.orders.ordering import MemberLook, OrderRequest
from maglev0.protocol.orders import Order


def main(arguments: list[str]) -> int:
    """Run `maglev0 undrain` with these arguments; returns the exit status."""
    return ordering.run(__doc__, "undrain", arguments, _request)


def _request(arguments: dict[str, Any]) -> OrderRequest:
    return OrderRequest(ordering.member_id(arguments["ID"]), _undrained, _takes_part)


def _undrained(order: Order) -> Order:
    return order._replace(drained=False)


def _takes_part(look: MemberLook) -> bool:
    return look.record is not None and look.record.state != DRAINING and look.is_settled
