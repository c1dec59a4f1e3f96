"""All benchmarks, one after the other.

`python -m tests.bench`, as root; some 25 minutes, for an idle machine.
"""

from __future__ import annotations

from tests.bench import (
    answers,
    conntrack,
    daemon,
    endtoend,
    handover,
    nftables,
    older,
    packets,
    plot,
    scale,
    table,
)

for bench in (
    table,
    nftables,
    handover,
    conntrack,
    answers,
    daemon,
    packets,
    endtoend,
    scale,
    older,
    plot,
):
    bench.main()
