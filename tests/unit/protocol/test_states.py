"""The table of the states that others are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from maglev0.core.view import ACTIVE, DRAINING, DRY_RUN, FAILING, ViewId
from maglev0.protocol.handover import Phase
from maglev0.protocol.progress import Progress
from maglev0.protocol.states import ReportedState, next_state
from tests.support.members import SOMEONE

SERVING = Progress(
    me=replace(SOMEONE, state=ACTIVE),
    is_member=True,
    view=None,
    view_at=0.0,
    obeys=ViewId(1, 2, 3),
    stage=Phase.ACQUIRED,
    held=frozenset({1}),
    lease_left_s=1.0,
    kept=0,
    ownership=None,
)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, ReportedState.ACTIVE),
        ({"lease_left_s": 0.0}, ReportedState.LEASE_EXPIRED),
        ({"held": frozenset()}, ReportedState.IDLE),
        ({"held": frozenset(), "stage": Phase.RELEASED}, ReportedState.JOINING),
        ({"is_member": False}, ReportedState.JOINING),
        ({"me": replace(SOMEONE, state=DRAINING)}, ReportedState.DRAINING),
        ({"me": replace(SOMEONE, state=FAILING)}, ReportedState.FAILING),
        ({"me": replace(SOMEONE, state=DRY_RUN)}, ReportedState.DRY_RUN),
    ],
)
def test_a_state_follows_from_how_far_the_node_has_come(
    changes: dict[str, Any], state: ReportedState
) -> None:
    progress = SERVING._replace(**changes)
    assert next_state(ReportedState.JOINING, progress, able=True) is state
    assert next_state(state, progress, able=False) is ReportedState.HOST_FAULT


@pytest.mark.parametrize(
    ("lease_left_s", "stage", "is_settled", "is_at_rest"),
    [
        (1.0, Phase.ACQUIRED, True, True),
        (0.0, Phase.ACQUIRED, False, True),
        (1.0, Phase.RELEASED, False, False),
    ],
)
def test_a_node_is_settled_at_rest_and_under_its_lease(
    lease_left_s: float,
    stage: Phase,
    is_settled: bool,
    is_at_rest: bool,
) -> None:
    progress = SERVING._replace(lease_left_s=lease_left_s, stage=stage)
    assert (progress.is_settled, progress.is_at_rest) == (is_settled, is_at_rest)
