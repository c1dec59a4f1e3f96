"""maglev0 status: who is in the cluster, who owns what, and whether every bucket has exactly one owner.

Usage:
  maglev0 status [--watch] [--interval=S] [--all] [options]

Options:
  --watch                 go on until Ctrl-C: in a terminal redrawn, in a pipe one more block whenever something changed
  --interval=<S>          with --watch: seconds between two looks, 0.1 to 3600 [default: 1]
  --all                   list every member; left out, the first 40 and all that are not as usual
{options}  -h, --help              show this text

Any machine that reaches ZooKeeper may ask; nothing is changed. What the kernels hold is what their daemons read back from them, every
second or a few: "told" says how long ago, older than 15 s is stale. A bucket with no owner or several is "moving" for a lease and 5 s
after a change of the view, then an alarm. In the strip every cell shows who owns most of its buckets by the table, "!" marks faults.

Columns: state is active, idle (active and owns nothing), draining, failing or dry-run, with what was ordered; lease: how long new flows
would be accepted without ZooKeeper's next word, when it was told; late: buckets that it no longer owns but in which it keeps connections;
flows: its connections, counted every 15 s; up: since its start.

With --json there is one object in one line, with --watch one for each look: time, sound, clusters, and error where there was no answer. In each
of clusters: vip, verdict (sound, moving, alarm), alarms, notes, view (number, age_s, waits_for), settings, members (id, name, host,
address, state, weight, order, buckets, share, uptime_s, dataplane, is_current, and report: age_s, held, lease_left_s, late, flows, able,
problems, xdp, version), overlaps and holes (count, examples), unknown, ignored, standing_orders.

Exit status: 0 every bucket has one owner or is in a hand-over, 1 an alarm or no answer, 2 a flag is wrong, 130 ended by Ctrl-C.
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
from maglev0.operator.status import page, text
from maglev0.operator.status.page import ALARM, Status
from maglev0.protocol.ports.zookeeper import Disconnected
from maglev0.telemetry.observer import observe

INTERVALS_S = (0.1, 3600.0)

Show = Callable[[Sequence[Status], str], None]
"""Shows clusters, or what was seen of them last and why there is no answer now."""


def main(arguments: list[str]) -> int:
    """Run `maglev0 status` with what stands behind `status` on the command line; returns the exit status."""
    return command.run(__doc__.format(options=cluster_address.OPTIONS), "status", arguments, _run)


def _run(arguments: dict[str, Any]) -> int:
    whom, interval_s = cluster_address.read(arguments), _interval_s(arguments["--interval"])
    show = _json if arguments["--json"] else _screen if _is_terminal() else _plain
    with show(everyone=arguments["--all"], watch=arguments["--watch"]) as shown:
        return asyncio.run(
            _watch(whom, interval_s, shown) if arguments["--watch"] else _once(whom, shown)
        )


def _interval_s(text: str) -> float:
    least, most = INTERVALS_S
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not least <= float(text) <= most:
        raise ConfigError(
            f"--interval={printable(text)}: allowed are {least:g} to {most:g} seconds, as 1 or 0.5"
        )
    return float(text)


async def _once(whom: ClusterAddress, show: Show) -> int:
    async with cluster_address.session(whom) as session:
        clusters = await _look(session, whom)
    show(clusters, "")
    return 1 if any(of.verdict == ALARM for of in clusters) else 0


async def _watch(whom: ClusterAddress, interval_s: float, show: Show) -> int:
    """Look again and again. What keeps the first look from being taken ends it; later, it is told, and the next look may succeed."""
    async with cluster_address.session(whom) as session:
        clusters = await _look(session, whom)
        show(clusters, "")
        while True:
            await asyncio.sleep(interval_s)
            trouble = ""
            try:
                clusters = await _look(session, whom)
            except Disconnected:
                trouble = f"no answer from ZooKeeper: {await diagnosis.why_no_session(whom.zk, session.tls)}"
            except ZooKeeperError as error:
                trouble = str(error)
            show(clusters, trouble)


async def _look(session: Session, whom: ClusterAddress) -> list[Status]:
    found = []
    for vip in whom.vips:
        seen = await observe(session, await cluster_address.cluster(session, whom, vip))
        found.append(page.status(vip, seen, time.time()))
    return found


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _json(*, everyone: bool, watch: bool) -> AbstractContextManager[Show]:
    """One line for each look; it always holds every member."""
    del everyone, watch

    def show(clusters: Sequence[Status], trouble: str) -> None:
        sound = not trouble and all(of.verdict != ALARM for of in clusters)
        found: dict[str, Any] = {
            "time": round(time.time(), 3),
            "sound": sound,
            "clusters": [] if trouble else list(map(page.as_json, clusters)),
        }
        _write(json.dumps({**found, "error": trouble} if trouble else found))

    return nullcontext(show)


def _plain(*, everyone: bool, watch: bool) -> AbstractContextManager[Show]:
    """Lines for who reads them one after the other: only what is news is said again."""
    said: Any = None

    def show(clusters: Sequence[Status], trouble: str) -> None:
        nonlocal said
        news = trouble or [page.essence(of) for of in clusters]
        if news == said:
            return
        said = news
        blocks = (
            [trouble]
            if trouble
            else ["\n".join(text.plain(of, everyone=everyone)) for of in clusters]
        )
        now = f"{datetime.now(UTC).astimezone().isoformat(timespec='seconds')}\n" if watch else ""
        _write(now + "\n\n".join(blocks) + ("\n" if watch else ""))

    return nullcontext(show)


def _screen(*, everyone: bool, watch: bool) -> AbstractContextManager[Show]:
    """A page, redrawn in its place with --watch."""
    from maglev0.operator.status.screen import Screen  # noqa: PLC0415  rich takes a quarter of all the time, and a pipe needs none of it

    return Screen(everyone=everyone, watch=watch)


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
