"""maglev0 drain: make a member give up its share and serve only the connections that it has.

Usage:
  maglev0 drain [options] ID

Options:
{options}{waiting}  -h, --help              show this text

The order is stored in ZooKeeper and survives restarts of the member; maglev0 undrain withdraws it.
It is carried out when the member has no bucket in force and no connection. The order stays when you
interrupt the wait.

With --json each line is one object: member, present, state, weight, held (buckets in force),
connections, kept (buckets that it no longer owns but in which it keeps connections), done.

Exit status: 0 carried out, or left for an absent member; 1 not carried out in time, or no answer;
2 wrong flag.
"""

from __future__ import annotations

from typing import Any

from maglev0.core.view import ACTIVE, FAILING
from maglev0.operator.orders import ordering
from maglev0.operator.orders.ordering import MemberLook, OrderRequest
from maglev0.protocol.orders import Order


def main(arguments: list[str]) -> int:
    """Run `maglev0 drain` with these arguments; returns the exit status."""
    return ordering.run(__doc__, "drain", arguments, _request)


def _request(arguments: dict[str, Any]) -> OrderRequest:
    return OrderRequest(ordering.member_id(arguments["ID"]), _drained, _is_empty)


def _drained(order: Order) -> Order:
    return order._replace(drained=True)


def _is_empty(look: MemberLook) -> bool:
    serves = look.record is None or look.record.state in (ACTIVE, FAILING)
    return (
        not serves
        and look.is_settled
        and look.report is not None
        and look.report.held == look.connections_left == 0
    )
