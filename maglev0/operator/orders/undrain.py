"""maglev0 undrain: have a member that was drained take part again.

Usage:
  maglev0 undrain [options] ID

Options:
{options}{waiting}  -h, --help              show this text

It is carried out when the member has its share again, or none because its checks fail or its weight is 0.

With --json there is one object a line: member, present, state, weight, held (node numbers in force), flows (connections), late (node numbers in which
it keeps connections), done.

Exit status: 0 carried out, or left for a member that is not there, 1 not carried out in time or no answer, 2 a flag is wrong.
"""

from __future__ import annotations

from typing import Any

from maglev0.core.view import DRAINING
from maglev0.operator.orders import ordering
from maglev0.operator.orders.ordering import MemberLook, OrderRequest
from maglev0.protocol.orders import Order


def main(arguments: list[str]) -> int:
    """Run `maglev0 undrain` with what stands behind it on the command line; returns the exit status."""
    return ordering.run(__doc__, "undrain", arguments, _errand)


def _errand(arguments: dict[str, Any]) -> OrderRequest:
    return OrderRequest(ordering.member_id(arguments["ID"]), _undrained, _takes_part)


def _undrained(order: Order) -> Order:
    return order._replace(drained=False)


def _takes_part(look: MemberLook) -> bool:
    return look.record is not None and look.record.state != DRAINING and look.is_settled
