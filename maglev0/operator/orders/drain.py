"""maglev0 drain: have a member give up its share and serve only the connections that it has.

Usage:
  maglev0 drain [options] ID

Options:
{options}{waiting}  -h, --help              show this text

The order lies in ZooKeeper, and holds across restarts of the member until maglev0 undrain. It is carried out when the member has no node
number in force and no connection any more. Interrupting the wait leaves the order.

With --json there is one object a line: member, present, state, weight, held (node numbers in force), flows (connections), late (node numbers in which
it keeps connections), done.

Exit status: 0 carried out, or left for a member that is not there, 1 not carried out in time or no answer, 2 a flag is wrong.
"""

from __future__ import annotations

from typing import Any

from maglev0.core.view import ACTIVE, FAILING
from maglev0.operator.orders import ordering
from maglev0.operator.orders.ordering import MemberLook, OrderRequest
from maglev0.protocol.orders import Order


def main(arguments: list[str]) -> int:
    """Run `maglev0 drain` with what stands behind it on the command line; returns the exit status."""
    return ordering.run(__doc__, "drain", arguments, _errand)


def _errand(arguments: dict[str, Any]) -> OrderRequest:
    return OrderRequest(ordering.member_id(arguments["ID"]), _drained, _is_empty)


def _drained(order: Order) -> Order:
    return order._replace(drained=True)


def _is_empty(look: MemberLook) -> bool:
    serves = look.record is None or look.record.state in (ACTIVE, FAILING)
    return (
        not serves
        and look.is_settled
        and look.report is not None
        and look.report.held == look.report.flows == 0
    )
