"""All benchmarks, one after the other: `python -m tests.bench`, as root; about six minutes."""

from __future__ import annotations

from tests.bench import answers, conntrack, daemon, nftables, table

for bench in (table, nftables, conntrack, answers, daemon):
    bench.main()
