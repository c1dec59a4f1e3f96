"""maglev0 weight: give a member another weight than its own flags do.

Usage:
  maglev0 weight [options] ID WEIGHT

WEIGHT is 0 to 1000, in proportion to the others', or "own": what the member's own flags say.

Options:
{options}{waiting}  -h, --help              show this text

The order lies in ZooKeeper, and holds across restarts of the member until it is taken back by "own".

With --json there is one object a line: member, present, state, weight, held (node numbers in force), flows (connections), late (node numbers in which
it keeps connections), done.

Exit status: 0 carried out, or left for a member that is not there, 1 not carried out in time or no answer, 2 a flag is wrong.
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
    """Run `maglev0 weight` with what stands behind it on the command line; returns the exit status."""
    return ordering.run(__doc__, "weight", arguments, _errand)


def _errand(arguments: dict[str, Any]) -> OrderRequest:
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
            f"{printable(text)}: allowed is a weight from 0 to {MAX_WEIGHT}, or {OWN}"
        )
    return int(text)
