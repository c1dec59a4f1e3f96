from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.core.settings import FORMAT
from maglev0.core.view import ACTIVE, DRAINING, DRY_RUN, FAILING, MAX_WEIGHT
from maglev0.protocol.orders import MAX_ORDER_BYTES, Order, Wish, decode, wish
from tests.support.records import corrupted, outcome_of

all_orders = st.builds(Order, st.booleans(), st.none() | st.integers(0, MAX_WEIGHT))


@given(all_orders)
def test_what_was_encoded_is_decoded_to_the_same(order: Order) -> None:
    assert decode(order.encode()) == order
    assert len(order.encode()) <= MAX_ORDER_BYTES


@given(corrupted(json.loads(Order(drained=True, weight=3).encode())))
def test_no_data_does_more_than_be_refused(data: bytes) -> None:
    outcome = outcome_of(decode, data)
    assert isinstance(outcome, Order) or str(outcome).isprintable()


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"drained": 1, "weight": None}, "drained"),
        ({"weight": None}, "drained"),
        ({"drained": True, "weight": -1}, "weight"),
        ({"drained": True, "weight": MAX_WEIGHT + 1}, "weight"),
        ({"drained": True, "weight": True}, "weight"),
        (
            {"drained": True, "weight": 1, "format": FORMAT + 1},
            "format 4, this version of maglev0 uses format 3: give the order again",
        ),
    ],
)
def test_a_wrong_order_is_refused_by_name(record: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        decode(json.dumps({"format": FORMAT, **record}).encode())


def test_an_order_too_long_to_be_one_is_not_parsed() -> None:
    with pytest.raises(ValueError, match="at most"):
        decode(b" " * (MAX_ORDER_BYTES + 1))


@pytest.mark.parametrize(
    ("order", "healthy", "dry_run", "leaving", "wanted"),
    [
        (Order(), True, False, False, Wish(ACTIVE, 5)),
        (Order(weight=0), True, False, False, Wish(ACTIVE, 0)),
        (Order(), False, False, False, Wish(FAILING, 5)),
        (Order(drained=True), True, False, False, Wish(DRAINING, 5)),
        (Order(drained=True, weight=7), False, False, False, Wish(DRAINING, 7)),
        (Order(), False, False, True, Wish(DRAINING, 5)),
        (Order(drained=True, weight=7), False, True, True, Wish(DRY_RUN, 7)),
    ],
)
def test_a_member_says_what_is_wanted_of_it(
    order: Order, healthy: bool, dry_run: bool, leaving: bool, wanted: Wish
) -> None:
    assert wish(order, 5, healthy=healthy, dry_run=dry_run, leaving=leaving) == wanted
