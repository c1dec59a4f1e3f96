"""All benchmarks, one after the other: `python -m tests.bench`, as root; about five minutes."""

from __future__ import annotations

from tests.bench import daemon, nftables, table

for bench in (table, nftables, daemon):
    bench.main()
