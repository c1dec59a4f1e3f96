from __future__ import annotations

import pytest

from maglev0.core.view import FAILING
from maglev0.operator.status import wording
from maglev0.operator.status.page import Status
from maglev0.operator.status.wording import (
    SHOWN_OTHERS,
    SHOWN_ROWS,
    SYMBOLS,
    ordered,
    plain,
    strip,
    two_unit_duration,
)
from maglev0.protocol.orders import Order
from maglev0.telemetry.node_report import STALE_S
from tests.support.clusters import NOW_S, PATHS, SEED, SESSION, Cluster
from tests.support.direct import put

TABLE = """\
     member      host   state   weight  buckets  share  lease  kept  flows         up  reported
  1  backend-1   web1   active       1        6  37.5%  1.6 s     0     12  2 h 1 min   1 s ago
  2  backend-2   web2   active       1        5  31.2%  1.6 s     0     12  2 h 1 min   1 s ago
  3  backend-12  web12  active       1        5  31.2%  1.6 s     0     12  2 h 1 min   1 s ago
"""


def shown_text(status: Status, *, everyone: bool = False) -> str:
    return "\n".join(plain(status, everyone=everyone))


def test_a_sound_cluster_in_plain_text() -> None:
    lines = plain(Cluster.of(1, 2, 12).status(), everyone=False)
    assert lines[:4] == [
        "198.51.100.1: view 3, for 1 min 40 s; 3 members",
        "  16 buckets by sourceip, nftables, cluster MAC 03:bf:c6:33:64:01, lease 2 s",
        "  all run nftables, XDP native, version 4.0",
        "  every bucket has exactly one owner",
    ]
    assert set(lines[4]) == set("  [123]")
    assert lines[5:] == TABLE.splitlines()


def test_plain_text_is_ascii_without_escapes_and_without_the_seed() -> None:
    shown = shown_text(Cluster.of(*range(1, 80), total_nodes=997).status(), everyone=True)
    assert shown.isascii()
    assert shown.replace("\n", "").isprintable()
    assert str(SEED) not in shown


def test_what_is_not_known_is_a_question_mark() -> None:
    cluster = Cluster.of(1, 2)
    cluster.gone(PATHS.report(1))
    cluster.report(2, read_at=NOW_S - STALE_S - 1, flows=None)
    shown = plain(cluster.status(), everyone=False)
    assert "  every bucket has exactly one owner, as far as is known" in shown
    assert sum(line.startswith("  note: ") for line in shown) == 2
    assert "?" in next(line for line in shown if "backend-1 " in line)
    assert next(line for line in shown if "web1 " in line).endswith("  never  nftables")
    assert next(line for line in shown if "web2 " in line).endswith(
        "16 s ago, stale  nftables, XDP native, version 4.0"
    )


def test_alarms_and_hand_overs_are_said() -> None:
    cluster = Cluster.of(1, 2)
    foreign = min(cluster.share(2))
    share = cluster.share(1) | {foreign}
    cluster.hold(1, share)
    status = cluster.status()
    alarm = (
        f"overlap: 1 bucket with more than one owner, such as {foreign} on backend-1 and backend-2"
    )
    assert f"  ALARM: {alarm}" in plain(status, everyone=False)
    assert [place for place, part in enumerate(strip(status, 16), 1) if part.is_bad] == [foreign]
    cluster.hold(1, share, view_at=NOW_S)
    cluster.report(2, view_at=NOW_S)
    put(cluster.tree, PATHS.ack(2), b"", SESSION)
    shown = plain(cluster.status(), everyone=False)
    assert (
        "  moving: 1 bucket with more than one owner, 0 buckets without an owner,"
        " by the last reports"
    ) in shown
    assert "  hand-over: waiting for backend-2" in shown
    assert "!" not in shown_text(cluster.status())


def test_an_empty_cluster_has_no_table_of_members() -> None:
    assert plain(Cluster.of().status(), everyone=False) == [
        "198.51.100.1: view 0, just now; 0 members",
        "  16 buckets by sourceip, nftables, cluster MAC 03:bf:c6:33:64:01, lease 2 s",
        "  ALARM: no members: no node answers clients",
        "  [!!!!!!!!!!!!!!!!]",
    ]


def test_one_member_is_one() -> None:
    assert "; 1 member\n" in shown_text(Cluster.of(1).status())


def test_many_members_are_bounded_but_for_those_that_are_not_as_usual() -> None:
    cluster = Cluster.of(*range(1, 101), total_nodes=1009)
    cluster.report(77, problems=("tcp:80: refused", "file:/up is missing"))
    cluster.report(99, able=False)
    cluster.report(98, able=False, problems=("no nft",))
    status = cluster.status()
    lines = plain(status, everyone=False)
    assert sum("web" in line for line in lines) == SHOWN_ROWS + 3
    buckets = sum(row.buckets for row in status.rows[40:] if row.is_plain)
    assert lines[-4:] == [
        f"  and 57 more members without problems, with {buckets} buckets; --all lists them",
        "  backend-77: tcp:80: refused; file:/up is missing",
        "  backend-98: cannot serve: no nft",
        "  backend-99: cannot serve",
    ]
    assert sum("web" in line for line in plain(status, everyone=True)) == 100
    assert "--all" not in shown_text(status, everyone=True)


def test_orders_and_ignored_znodes_are_bounded() -> None:
    cluster = Cluster.of(1)
    for number in range(2, 2 + SHOWN_OTHERS + 5):
        put(cluster.tree, PATHS.order(number), Order(drained=True).encode())
        put(cluster.tree, f"{PATHS.members}/what{number}", b"", SESSION)
    put(cluster.tree, PATHS.order(1), Order(weight=7).encode())
    shown = shown_text(cluster.status())
    assert "active (ordered: weight 7)" in shown
    assert "backend-2 (absent): ordered: drained\n" in shown
    assert "ignored members/what2: not a member id" in shown
    assert "and 5 more orders\n" in shown
    assert shown.endswith("and 5 more ignored znodes")


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (Order(drained=True, weight=0), "ordered: drained, weight 0"),
        (Order(weight=5), "ordered: weight 5"),
        (Order(), "ordered: nothing"),
    ],
)
def test_orders_in_words(order: Order, words: str) -> None:
    assert ordered(order) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86399, "23 h 59 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations_have_two_units(seconds: float, words: str) -> None:
    assert two_unit_duration(seconds) == words


@pytest.mark.parametrize("width", [1, 7, 16, 100])
def test_the_strip_holds_every_bucket_once_and_shows_whose_most_are(width: int) -> None:
    status = Cluster.of(1, 2, 3).status()
    parts = strip(status, width)
    assert len(parts) == min(width, 16)
    if width >= 16:
        assert tuple(part.owner for part in parts) == status.owners
    if width == 1:
        assert parts[0].owner == max(set(status.owners), key=status.owners.count)


def test_every_fault_shows_in_the_strip() -> None:
    cluster = Cluster.of(1, 2, total_nodes=997)
    for width in (1, 10, 99, 997):
        for bucket in (min(cluster.share(2)), max(cluster.share(2))):
            cluster.hold(1, cluster.share(1) | {bucket})
            bad = [
                place for place, part in enumerate(strip(cluster.status(), width)) if part.is_bad
            ]
            assert bad == [(bucket - 1) * width // 997]


def test_signs_come_again_where_members_are_many() -> None:
    signs = wording.symbols(Cluster.of(*range(1, 70), total_nodes=997).status())
    assert signs["backend-1"] == signs["backend-62"] == "1"
    assert len(set(signs.values())) == len(SYMBOLS) == 61


def test_columns_go_by_rank_where_there_is_no_room() -> None:
    status = Cluster.of(1, 2).status()
    headings = [
        [column.heading for column in wording.columns(status, status.rows, width)]
        for width in (None, 200, 85, 1)
    ]
    assert headings[0] == headings[1]
    assert set(headings[0]) - set(headings[2]) == {"up"}
    assert headings[3] == ["member", "state", "share", "lease", "reported"]


def test_who_fails_stands_out() -> None:
    cluster = Cluster.of(1, 2)
    cluster.change(2, state=FAILING)
    cluster.settle()
    status = cluster.status()
    state = next(
        column for column in wording.columns(status, status.rows) if column.heading == "state"
    )
    assert [state.cell(row) for row in status.rows] == [("active", False), ("failing", True)]
