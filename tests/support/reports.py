"""Reports of nodes for tests."""

from __future__ import annotations

from maglev0.core.view import ViewId
from maglev0.telemetry.node_report import (
    NodeReport,
)

PLAIN = NodeReport(
    1.0,
    ViewId(1, 2, 3),
    0.5,
    4,
    "ab",
    1.5,
    0,
    None,
    None,
    1.0,
    able=True,
    problems=(),
    xdp="off",
    version="1",
    before={3: 1},
)
