"""maglev0 status: show the members, their buckets, and whether every bucket has exactly one owner.

Usage:
  maglev0 status [--watch] [--interval=S] [--all] [options]

Options:
  --watch                 repeat until Ctrl-C: a terminal is redrawn, a pipe gets one more block
                          whenever something changes
  --interval=<S>          with --watch: seconds between two readings, 0.1 to 3600 [default: 1]
  --all                   list every member (left out: the first 40, and every unusual one)
{options}  -h, --help              show this text

The command runs on any machine that reaches ZooKeeper, and changes nothing. Each daemon reads its
kernel back every few seconds and reports what it has in force; a report older than 15 s is stale.
For a lease and 5 s after a change of the view, a bucket with no owner or several is "moving"; after
that it is an alarm. Each cell of the strip shows the member that owns most of the cell's buckets by
the table; "!" marks faults.

Columns:
  state     active, idle (active and owns no bucket), draining, failing or dry-run, with the order
  buckets   what the table gives to the member; share is the same in per cent
  lease     how long new connections would be accepted without another renewal, when it reported
  kept      kept buckets: no longer owned, but with connections
  flows     TCP connections, counted every 15 s
  up        time since the daemon started
  reported  age of the last report

With --json there is one object in one line, with --watch one for each reading: time, sound,
clusters, and error if ZooKeeper did not answer. Each of clusters has: vip, verdict (sound, moving,
alarm), alarms, notes, view (number, age_s, waits_for), settings, members (id, name, host, address,
state, weight, order, buckets, share, uptime_s, dataplane, is_current, and report: age_s, held,
lease_left_s, kept, connections, can_serve, problems, xdp, version), overlaps and holes (count,
examples), unknown, ignored, standing_orders.

Exit status: 0 every bucket has one owner or is in a hand-over, 1 an alarm or no answer, 2 wrong
flag, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

from maglev0.coordination import diagnosis
from maglev0.coordination.session import Session
from maglev0.core.text import printable
from maglev0.errors import ConfigError, ZooKeeperError
from maglev0.operator import cluster_address, command
from maglev0.operator.cluster_address import ClusterAddress
from maglev0.operator.status import page, wording
from maglev0.operator.status.page import ALARM, Status
from maglev0.protocol.ports.zookeeper import Disconnected
from maglev0.telemetry.observer import observe

INTERVALS_S = (0.1, 3600.0)

Show = Callable[[Sequence[Status], str], None]
"""Shows clusters: the last reading, and why there is no newer one ("" if it is new)."""


def main(arguments: list[str]) -> int:
    """Run `maglev0 status` with these arguments; returns the exit status."""
    return command.run(__doc__.format(options=cluster_address.OPTIONS), "status", arguments, _run)


def _run(arguments: dict[str, Any]) -> int:
    address, interval_s = cluster_address.read(arguments), _interval_s(arguments["--interval"])
    show = _json if arguments["--json"] else _screen if _is_terminal() else _plain
    with show(everyone=arguments["--all"], watch=arguments["--watch"]) as shown:
        return asyncio.run(
            _watch(address, interval_s, shown) if arguments["--watch"] else _once(address, shown)
        )


def _interval_s(text: str) -> float:
    least, most = INTERVALS_S
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not least <= float(text) <= most:
        raise ConfigError(
            f"--interval={printable(text)}: must be {least:g} to {most:g} seconds, such as 1 or 0.5"
        )
    return float(text)


async def _once(address: ClusterAddress, show: Show) -> int:
    async with cluster_address.session(address) as session:
        clusters = await _look(session, address)
    show(clusters, "")
    return 1 if any(of.verdict == ALARM for of in clusters) else 0


async def _watch(address: ClusterAddress, interval_s: float, show: Show) -> int:
    """Read and show again and again.

    An error ends the command only at the first reading; a later one is shown, and the next reading
    may succeed.
    """
    async with cluster_address.session(address) as session:
        clusters = await _look(session, address)
        show(clusters, "")
        while True:
            await asyncio.sleep(interval_s)
            trouble = ""
            try:
                clusters = await _look(session, address)
            except Disconnected:
                reason = await diagnosis.why_no_session(address.zk, session.tls)
                trouble = f"no answer from ZooKeeper: {reason}"
            except ZooKeeperError as error:
                trouble = str(error)
            show(clusters, trouble)


async def _look(session: Session, address: ClusterAddress) -> list[Status]:
    found = []
    for vip in address.vips:
        seen = await observe(session, await cluster_address.cluster(session, address, vip))
        found.append(page.summarize(vip, seen, time.time()))
    return found


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _json(*, everyone: bool, watch: bool) -> AbstractContextManager[Show]:
    """One line for each reading, always with every member."""
    del everyone, watch

    def show(clusters: Sequence[Status], trouble: str) -> None:
        sound = not trouble and all(of.verdict != ALARM for of in clusters)
        found: dict[str, Any] = {
            "time": round(time.time(), 3),
            "sound": sound,
            "clusters": [] if trouble else list(map(page.status_as_json, clusters)),
        }
        _write(json.dumps({**found, "error": trouble} if trouble else found))

    return nullcontext(show)


def _plain(*, everyone: bool, watch: bool) -> AbstractContextManager[Show]:
    """Lines for a pipe: a block is printed again only if something changed."""
    printed: Any = None

    def show(clusters: Sequence[Status], trouble: str) -> None:
        nonlocal printed
        news = trouble or [page.essence(of) for of in clusters]
        if news == printed:
            return
        printed = news
        blocks = (
            [trouble]
            if trouble
            else ["\n".join(wording.plain(of, everyone=everyone)) for of in clusters]
        )
        now = f"{datetime.now(UTC).astimezone().isoformat(timespec='seconds')}\n" if watch else ""
        _write(now + "\n\n".join(blocks) + ("\n" if watch else ""))

    return nullcontext(show)


def _screen(*, everyone: bool, watch: bool) -> AbstractContextManager[Show]:
    """A page, redrawn in place with --watch."""
    # rich takes a quarter of the run time, and a pipe does not need it.
    from maglev0.operator.status.screen import Screen  # noqa: PLC0415

    return Screen(everyone=everyone, watch=watch)


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
