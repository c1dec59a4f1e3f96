from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from maglev0.lab.testbed.addresses import client_address, node_mac
from maglev0.lab.traffic.report import Exchange, Outage, Report

ALICE, BOB = str(client_address(0)), str(client_address(1))
ONE, TWO = node_mac(1), node_mac(300)

exchanges = st.lists(
    st.builds(
        Exchange,
        st.sampled_from(["tcp", "udp", "ping"]),
        st.sampled_from([ALICE, BOB]),
        st.floats(0, 1e6),
        st.none() | st.floats(0, 1e6),
        st.lists(st.sampled_from([ONE, TWO])).map(tuple),
    )
).map(tuple)


def ask(at_s: float, *answers: str, client: str = ALICE, whole: bool = True) -> Exchange:
    return Exchange("udp", client, at_s, at_s + 0.001 if answers and whole else None, answers)


@given(exchanges)
def test_each_request_is_counted_once_twice_or_never(asked: tuple[Exchange, ...]) -> None:
    report = Report(asked)
    assert report.once + report.twice + report.never == len(asked)


@given(exchanges)
def test_a_report_survives_json(asked: tuple[Exchange, ...]) -> None:
    assert Report.from_json(Report(asked).to_json()) == Report(asked)


def test_a_single_refusal_is_no_answer_and_two_nodes_are_two_answers() -> None:
    report = Report((ask(0, ONE, whole=False), ask(1, ONE, TWO, whole=False), ask(2, ONE), ask(3)))
    assert (report.once, report.twice, report.never) == (1, 1, 2)
    assert not report.clean


def test_a_report_without_requests_is_not_clean() -> None:
    assert not Report(()).clean
    assert Report((ask(0, ONE),)).clean


def test_shares_are_by_the_node_name_of_the_mac() -> None:
    assert Report((ask(0, ONE), ask(1, TWO, TWO), ask(2, "02:aa:00:00:00:01"))).shares() == {
        "backend-1": 1,
        "backend-300": 2,
        "02:aa:00:00:00:01": 1,
    }


def test_outages_are_separate_by_client_and_series() -> None:
    asked = (
        ask(0, ONE),
        ask(1),
        ask(1.5, TWO, client=BOB),
        ask(2),
        ask(3, ONE),
        ask(4),
        ask(5, ONE),
        ask(6, client=BOB),
    )
    assert Report(asked).outages() == [
        Outage(ALICE, 1, 3.001, 2),
        Outage(ALICE, 4, 5.001, 1),
        Outage(BOB, 6, None, 1),
    ]


def test_delays_by_quantile() -> None:
    asked = tuple(Exchange("udp", ALICE, 0.0, number / 100, (ONE,)) for number in range(100))
    assert Report(asked).delay_s(0.5) == 0.5
    assert Report(asked).delay_s(1.0) == 0.99
    assert Report(()).delay_s(0.5) == 0.0


def test_the_summary_counts() -> None:
    report = Report((ask(0, ONE), ask(1, client=BOB)))
    assert report.summary() == (
        "2 requests from 2 clients: answered once 1, twice or more 0, never 1; slowest after 0.00 s"
    )
