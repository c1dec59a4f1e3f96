"""What a daemon costs while nothing happens: `python -m tests.bench.daemon`, as root."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from maglev0.lab.testbed.cluster import Lab, LabSettings

SIZES = (5, 65_537)
NODES = 3
REST_S = 60.0
LIMIT_MB = 60
LIMIT_CPU = 0.005


class Rest(NamedTuple):
    """One daemon at rest: memory as the kernel counts it for the process, CPU as a part of one core
    over `REST_S`.
    """

    size: int
    session_timeout_s: float
    resident_mb: float
    peak_mb: float
    cpu: float


def memory_mb(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(
        int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(field)
    )


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rest(size: int, session_timeout_s: float = 4.0) -> tuple[Rest, ...]:
    """Three daemons that have settled, watched while nobody joins, leaves or asks."""
    with Lab(
        LabSettings(
            nodes=NODES,
            total_nodes=size,
            dataplane="nftables",
            session_timeout_s=session_timeout_s,
            tick_ms=2000,
        )
    ) as cluster:
        cluster.start()
        pids = [node.daemon.pid for node in cluster.nodes.values()]
        before = {pid: cpu_s(pid) for pid in pids}
        time.sleep(REST_S)
        used = {pid: (cpu_s(pid) - before[pid]) / REST_S for pid in pids}
        return tuple(
            Rest(
                size, session_timeout_s, memory_mb(pid, "VmRSS"), memory_mb(pid, "VmHWM"), used[pid]
            )
            for pid in pids
        )


def run() -> tuple[Rest, ...]:
    """Measure every size, a minute each."""
    return tuple(row for size in SIZES for row in rest(size))


def rests_table(rests: tuple[Rest, ...]) -> Table:
    shown = Table(
        title=(
            f"{NODES} daemons at rest for {REST_S:.0f} s; limits {LIMIT_MB} MB, "
            f"{LIMIT_CPU:.1%} of a core"
        )
    )
    for column in (
        "buckets",
        "session timeout",
        "resident",
        "at most ever",
        "CPU",
        "CPU per minute",
    ):
        shown.add_column(column, justify="right")
    for row in rests:
        shown.add_row(
            f"{row.size:,}",
            f"{row.session_timeout_s:g} s",
            f"{row.resident_mb:.1f} MB",
            f"{row.peak_mb:.1f} MB",
            f"{row.cpu:.2%} of a core",
            f"{60 * row.cpu:.2f} s",
        )
    return shown


def main() -> None:
    """Print the table."""
    Console(width=130).print(rests_table(run()))


if __name__ == "__main__":
    main()
