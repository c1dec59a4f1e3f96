from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maglev0.core.assignment import Assignment, decide
from maglev0.core.view import Member
from maglev0.daemon.ownership_log import (
    LISTED_NODES,
    OwnershipLog,
    kernel_line,
    ownership_lines,
)
from maglev0.errors import DataplaneError
from tests.support.members import SOMEONE, clusters, viewed


def test_the_lines_of_a_small_cluster() -> None:
    ownership = Assignment(
        (1, 3, 4), ("backend-4", "backend-3", "backend-1", "backend-4", "backend-4")
    )
    assert ownership_lines(ownership, "backend-1") == (
        "[1 3 4]",
        "backend-4 is responsible for node 1",
        "backend-3 is responsible for node 2",
        "backend-1 (me!) is responsible for node 3",
        "backend-4 is responsible for node 4",
        "backend-4 is responsible for node 5",
    )


def test_the_lines_of_a_large_cluster() -> None:
    ownership = decide(
        viewed(replace(SOMEONE, id=number) for number in (2, 10, 9)), 65537, dry_run=False
    )
    assert ownership_lines(ownership, "backend-10") == (
        "[2 9 10]",
        "backend-2 is responsible for 21846 nodes (33.33%)",
        "backend-9 is responsible for 21845 nodes (33.33%)",
        "backend-10 (me!) is responsible for 21846 nodes (33.33%)",
    )


def test_a_member_that_owns_nothing_has_a_line_too() -> None:
    members = [replace(SOMEONE, id=1, weight=1000), replace(SOMEONE, id=2, weight=1)]
    assert ownership_lines(decide(viewed(members), 100, dry_run=False), "backend-1")[1:] == (
        "backend-1 (me!) is responsible for 100 nodes (100.00%)",
        "backend-2 is responsible for 0 nodes (0.00%)",
    )


@pytest.mark.parametrize("me", ["backend-1", "backend-9"])
def test_without_members_there_is_one_empty_line(me: str) -> None:
    assert ownership_lines(Assignment((), ()), me) == ("[]",)


@given(clusters, st.sampled_from([1, 5, LISTED_NODES, LISTED_NODES + 1, 300]))
@settings(deadline=None)
def test_every_bucket_is_counted_once(members: list[Member], total_nodes: int) -> None:
    ownership = decide(viewed(members), total_nodes, dry_run=True)
    live, *lines = ownership_lines(ownership, SOMEONE.name)
    assert live == "[" + " ".join(str(number) for number in ownership.ids) + "]"
    owners = [line.partition(" ")[0] for line in lines]
    if total_nodes <= LISTED_NODES:
        assert tuple(owners) == ownership.table
        assert [line.rpartition(" ")[2] for line in lines] == [
            str(number) for number in range(1, len(owners) + 1)
        ]
    else:
        assert owners == [f"backend-{number}" for number in ownership.ids]
        assert {
            owner: int(line.partition(" for ")[2].partition(" ")[0])
            for owner, line in zip(owners, lines, strict=True)
        } == {owner: len(ownership.of(owner)) for owner in owners}
    assert all(
        (" (me!) " in line) == (owner == SOMEONE.name)
        for owner, line in zip(owners, lines, strict=True)
    )


@pytest.mark.parametrize(
    ("held", "total_nodes", "line"),
    [
        ({3}, 5, "CLUSTERIP Nodes:  3"),
        ({10, 3, 1}, 16, "CLUSTERIP Nodes:  1,3,10"),
        ((), 5, "CLUSTERIP Nodes:"),
        ({64}, 64, "CLUSTERIP Nodes:  64"),
        ({64}, 65, "CLUSTERIP Nodes:  1 of 65"),
        ((), 65, "CLUSTERIP Nodes:  0 of 65"),
        (frozenset(range(1, 21846)), 65537, "CLUSTERIP Nodes:  21845 of 65537"),
    ],
)
def test_what_the_kernel_has(held: frozenset[int], total_nodes: int, line: str) -> None:
    assert kernel_line("CLUSTERIP", held, total_nodes) == line


def test_the_owners_are_logged_once_and_again_where_the_kernel_could_not_be_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    answers: list[frozenset[int] | DataplaneError] = [
        DataplaneError("no answer"),
        frozenset({1}),
        frozenset(),
    ]

    async def read_back() -> frozenset[int]:
        answer = answers.pop(0)
        if isinstance(answer, DataplaneError):
            raise answer
        return answer

    async def scenario() -> None:
        ownership = Assignment((1,), ("backend-1",))
        told = OwnershipLog("backend-1", "NFTABLES", 1, read_back)
        await told.outside()
        assert caplog.messages == []
        await told.serving(ownership, frozenset({1}))
        assert caplog.messages == []
        for _again in range(2):
            await told.serving(ownership, frozenset({1}))
        assert caplog.messages == [
            "[1]",
            "backend-1 (me!) is responsible for node 1",
            "NFTABLES Nodes:  1",
        ]
        for _again in range(2):
            await told.outside()
        assert caplog.messages[3:] == ["NFTABLES Nodes:"]

    asyncio.run(scenario())
