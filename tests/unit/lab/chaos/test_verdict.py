from __future__ import annotations

import json

from maglev0.lab.chaos import aftermath, report
from maglev0.lab.chaos.episodes import NOTHING, QUIET, Allowance, Episode, Timeline, crash_gap_s
from maglev0.lab.chaos.verdict import MOST_REPORTED, TrialVerdict, judge
from maglev0.lab.traffic.clients import ClientResult
from maglev0.lab.traffic.held import Turn
from maglev0.lab.traffic.raw import RequestKind
from maglev0.lab.traffic.tally import Tally

S = 1_000_000_000
QUIET_UNTIL, CHANGE_UNTIL, END = 10 * S, 20 * S, 30 * S
PLANNED = Allowance(1.4)
CRASH = Allowance(1.4, planned=False, nodes=frozenset({2}), breaks=frozenset({2}))


def timeline(allowance: Allowance, cause: str = "change") -> Timeline:
    """A quiet episode, then one of `cause`, then another quiet one."""
    episodes = [
        Episode(QUIET, 0, NOTHING),
        Episode(cause, QUIET_UNTIL, allowance, held=200, note="node 2"),
        Episode(QUIET, CHANGE_UNTIL, NOTHING),
    ]
    return Timeline(episodes, END)


def served(
    *, gap_s: float = 0.0, at_s: float = 12.0, old: int = 2, new: int = 3, sources: int = 1
) -> Tally:
    """A request every 10 ms from each source; node `old` answers before the gap, `new` after it."""
    tally = Tally()
    for at in range(0, END, S // 100):
        for source in range(sources):
            tally.ask(RequestKind.UDP, source, at)
            if not at_s <= at / S < at_s + gap_s:
                tally.answer(len(tally) - 1, old if at / S < at_s else new, at + 1, refusal=False)
    return tally


def turn(
    what: str, node: int = 2, at_s: float = 12.5, since_s: float = 12.0, good_s: float = 11.0
) -> Turn:
    return Turn(int(at_s * S), 7, what, node, int(since_s * S), int(good_s * S))


def test_a_planned_move_with_a_short_gap_is_good() -> None:
    verdict = judge(served(gap_s=0.03), [], timeline(PLANNED))
    assert verdict.good, verdict.faults
    figures = verdict.rows["change"].figures()
    assert figures["moved"] == 1
    assert 0.02 <= figures["gap_p50_s"] <= 0.04
    assert figures["lost"] == 3
    assert figures["held"] == 200


def test_a_planned_gap_above_the_percentile_is_slow() -> None:
    verdict = judge(served(gap_s=0.2, sources=3), [], timeline(PLANNED), idle=True)
    assert verdict.faults == []
    assert [gap.partition(":")[0] for gap in verdict.slow] == ["gaps"]
    assert "change: 0.200 s at the 99th percentile of 3 gaps, allowed 0.05 s" in verdict.slow[0]


def test_a_crash_gap_has_its_own_bound() -> None:
    assert judge(served(gap_s=1.3), [], timeline(CRASH)).good
    verdict = judge(served(gap_s=1.6), [], timeline(CRASH))
    assert (verdict.faults, verdict.good) == ([], False), "a slow crash gap is no safety fault"
    (gap,) = verdict.slow
    assert gap == (
        "gap: 12.000 s, change (node 2): source 0 of node 2, then 3, lost 160,"
        " for 1.590 s, allowed 1.400 s"
    )


def test_a_crash_allows_no_gap_in_other_nodes_buckets() -> None:
    verdict = judge(served(gap_s=0.3, old=4, new=3), [], timeline(CRASH), idle=True)
    assert verdict.rows["change"].gaps_s == []
    (gap,) = verdict.slow
    assert "in other nodes' buckets" in gap


def test_a_source_never_served_again_is_a_fault() -> None:
    verdict = judge(served(gap_s=100.0), [], timeline(Allowance(99.0, planned=False)))
    (fault,) = verdict.faults
    assert "never served again" in fault
    assert verdict.slow == []


def test_a_quiet_episode_allows_no_loss_and_no_move() -> None:
    verdict = judge(served(gap_s=0.01, at_s=25.0, new=2), [], timeline(PLANNED))
    assert verdict.faults == []
    (gap,) = verdict.slow
    assert gap == "quiet: 25.000 s, quiet: source 0 of node 2, then 2, lost 1"
    assert not judge(served(at_s=5.0), [], timeline(PLANNED)).good, (
        "a move without a loss is not allowed either"
    )


def test_a_loss_just_before_an_episode_belongs_to_it() -> None:
    assert judge(served(gap_s=0.5, at_s=QUIET_UNTIL / S - 0.03), [], timeline(CRASH)).good


def test_a_double_answer_is_a_fault_except_under_hold() -> None:
    tally = served()
    for number in range(1300, 1300 + MOST_REPORTED + 5):
        tally.answer(number, 4, 1, refusal=False)
    verdict = judge(tally, [], timeline(PLANNED))
    assert verdict.rows["change"].doubles == MOST_REPORTED + 5
    assert (
        verdict.faults[0]
        == "double: 13.000 s, change (node 2): UDP of source 0 by nodes [3, 4], 2 answers"
    )
    assert verdict.faults[-1] == "double: 5 more"
    held = judge(tally, [], timeline(PLANNED), hold=True)
    assert held.good
    assert held.rows["change"].doubles == MOST_REPORTED + 5


def test_a_break_is_allowed_only_at_a_crashed_node() -> None:
    tally = served()
    assert judge(
        tally, [turn("reset"), turn("silent"), turn("ended"), turn("foreign")], timeline(CRASH)
    ).good
    verdict = judge(tally, [turn("reset", node=4)], timeline(CRASH))
    assert verdict.faults == [
        "broken: 12.000 s, change (node 2): connection 7 of node 4: reset, noticed 0.500 s later"
    ]
    assert verdict.rows["change"].broken == {"reset": 1}
    assert not judge(tally, [turn("refused")], timeline(PLANNED)).good
    assert judge(tally, [turn("opened"), turn("closed")], timeline(PLANNED)).good


def test_an_idle_connection_may_notice_the_crash_later() -> None:
    late = turn("silent", at_s=40.0, since_s=25.0)
    assert judge(served(), [late], timeline(CRASH)).good
    assert not judge(served(), [late._replace(good_ns=22 * S)], timeline(CRASH)).good, (
        "the connection worked after the crash"
    )


def test_a_stall_is_reported_and_bounded_in_a_planned_change() -> None:
    tally = served()
    verdict = judge(tally, [turn("stalled", at_s=13.0)], timeline(PLANNED))
    assert verdict.good
    assert verdict.rows["change"].stalls_s == [1.0]
    stalled = judge(tally, [turn("stalled", at_s=16.0)], timeline(PLANNED))
    assert (len(stalled.faults), len(stalled.slow)) == (0, 1)
    assert judge(tally, [turn("stalled", at_s=16.0)], timeline(CRASH)).good


def result(tally: Tally) -> ClientResult:
    return ClientResult(tally, [], 3.0)


def test_the_report_has_counts_and_faults() -> None:
    tally = served(gap_s=0.2)
    at = timeline(PLANNED)
    verdict = judge(tally, [turn("reset"), turn("stalled")], at, idle=True)
    text = report.text(verdict, result(tally), at, hold=False)
    assert "30 s, 3000 requests; the client used 10.0% of a core" in text
    assert (
        "double answers 0; connections broken by planned changes 1 of 200 held through them" in text
    )
    assert "1 reset, 1 stalls up to 0.5 s" in text
    assert (text.count("NOT AS PROMISED"), text.count("SLOWER THAN PROMISED")) == (1, 1)
    assert "(hold: no fault)" in report.text(verdict, result(tally), at, hold=True)


def test_the_report_as_json() -> None:
    reported = json.loads(report.to_json(TrialVerdict({}, ["fault"], ["gap"]), result(Tally()), 5))
    assert reported == {
        "seed": 5,
        "good": False,
        "asked": 0,
        "client_cpu_s": 3.0,
        "causes": [],
        "faults": ["fault"],
        "slow": ["gap"],
    }


def test_the_aftermath_of_a_loss() -> None:
    tally, at = served(gap_s=1.0, sources=2), timeline(CRASH)
    (loss,) = aftermath.losses(tally, at).values()
    assert loss.silent_s == [1.99]
    assert loss.first_s == loss.all_s == [3.0]
    assert loss.affected == [1.0]
    lines = aftermath.lines(tally, at)
    assert lines[0] == (
        "change: its kernel answered last after median 1.990 s, 90 % 1.990 s,"
        " most 1.990 s (1 times)"
    )
    assert lines[-1] == "change: sources without an answer at some time: median 100.0%"


def test_a_node_that_still_answers_has_no_silence() -> None:
    tally = served(gap_s=1.0)
    assert (
        aftermath.losses(tally, timeline(Allowance(1.4, planned=False, nodes=frozenset({4}))))[
            "change"
        ].silent_s
        == []
    )
    assert aftermath.lines(tally, timeline(PLANNED)) == []


def test_bounds_and_durations() -> None:
    assert round(crash_gap_s(1.0, 200), 3) == 1.4
    at = timeline(PLANNED)
    assert at.duration_s({QUIET}) == 20.0
    assert at.at(0).is_quiet
    assert at.at(QUIET_UNTIL).cause == "change"
    assert turn("silent").is_break
    assert not turn("stalled").is_break
