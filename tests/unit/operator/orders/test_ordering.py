"""What the commands that wait for an order print, and from when on it is carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from maglev0.coordination.session import Session
from maglev0.core.view import DRAINING
from maglev0.operator.orders import drain, ordering
from maglev0.operator.orders.ordering import OrderRequest
from maglev0.protocol.ports.zookeeper import Znode
from tests.support.clusters import PATHS, Cluster
from tests.support.direct import DirectZooKeeper


class Scripted(DirectZooKeeper):
    """A cluster in which member 2 reports one thing after another, each for several looks."""

    LOOKS = 3

    def __init__(self, cluster: Cluster, reports: Sequence[dict[str, Any]]) -> None:
        super().__init__(cluster.tree, 1)
        self._cluster = cluster
        self._reports = reports
        self._looks = 0

    async def get_all(self, paths: Sequence[str], *, watch: bool = False) -> list[Znode | None]:
        number = min(self._looks // self.LOOKS, len(self._reports) - 1)
        self._cluster.hold(2, frozenset(), **self._reports[number])
        self._looks += 1
        return await super().get_all(paths, watch=watch)


def printed(
    reports: Sequence[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    progress_s: float = 0.0,
) -> list[str]:
    """The lines of `maglev0 drain 2` while member 2 drains."""
    monkeypatch.setattr(ordering, "LOOK_S", 0.001)
    monkeypatch.setattr(ordering, "PROGRESS_S", progress_s)
    cluster = Cluster.of(1, 2)
    cluster.change(2, state=DRAINING)
    view = cluster.view
    zookeeper = Scripted(
        cluster,
        [{**report, "counted_under": view} if "flows" in report else report for report in reports],
    )
    request = OrderRequest(2, drain._drained, drain._is_empty)
    follow = ordering._follow(cast("Session", zookeeper), PATHS, request, 60, ordering._text)
    assert asyncio.run(follow) == 0
    return capsys.readouterr().out.splitlines()


def test_a_drain_prints_how_many_connections_are_left_and_no_line_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(
        [{"flows": 5, "kept": 2}, {"flows": 3, "kept": 2}, {"flows": 0}], monkeypatch, capsys
    )
    assert found == [
        "backend-2 is draining, weight 1: 0 buckets in force, 5 connections left",
        "backend-2 is draining, weight 1: 0 buckets in force, 3 connections left",
        "backend-2 is draining, weight 1: 0 buckets in force, 0 connections left; done",
    ]


def test_connections_that_end_one_by_one_do_not_fill_the_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = [{"flows": flows} for flows in range(20, -1, -1)]
    found = printed(reports, monkeypatch, capsys, progress_s=3600)
    assert [line.rpartition(", ")[2] for line in found] == [
        "20 connections left",
        "0 connections left; done",
    ]


def test_an_unknown_number_of_connections_ends_no_drain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = {"counted_under": None}
    found = printed([unknown | {"kept": 1}, {"flows": 0}], monkeypatch, capsys)
    assert [line.rpartition(", ")[2] for line in found] == [
        "connections not counted yet",
        "0 connections left; done",
    ]


def test_a_count_from_before_the_hand_over_ends_no_drain() -> None:
    cluster = Cluster.of(1, 2)
    before = cluster.view
    cluster.change(2, state=DRAINING)
    cluster.hold(2, frozenset(), flows=0, counted_under=before)

    async def look() -> ordering.MemberLook:
        return await ordering._look(cast("Session", DirectZooKeeper(cluster.tree, 1)), PATHS, 2)

    assert not drain._is_empty(asyncio.run(look()))
    cluster.hold(2, frozenset(), flows=0, counted_under=cluster.view)
    assert drain._is_empty(asyncio.run(look()))
