"""What drain, undrain and weight share: they write an order to ZooKeeper and report its progress.

Progress is one line each time the member's state changes.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from maglev0.coordination.session import Session
from maglev0.core import view as views
from maglev0.core.text import printable
from maglev0.core.view import DRAINING, Member, ViewId, name_of
from maglev0.errors import ConfigError, ZooKeeperError
from maglev0.operator import cluster_address, command
from maglev0.operator.cluster_address import ClusterAddress
from maglev0.protocol import orders
from maglev0.protocol.membership import view_id
from maglev0.protocol.orders import Order
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import Create, Delete, Operation, Refused, Write
from maglev0.telemetry import node_report, observer
from maglev0.telemetry.node_report import NodeReport

OPTIONS = """\
  --no-wait               write the order and return (left out: wait until it is carried out, and
                          print the progress)
  --timeout=<S>           seconds to wait at most; the order stays [default: 3600]
"""
MAX_TIMEOUT_S = 86400
LOOK_S = 0.5
PROGRESS_S = 5.0  # between two lines that differ in the number of connections alone
ATTEMPTS = 10  # to write an order that another command changes at the same time
NOT_YET = 1


class MemberLook(NamedTuple):
    """What a member publishes now; `record` is `None` if the member is absent."""

    record: Member | None
    report: NodeReport | None
    view: ViewId

    @property
    def connections_left(self) -> int | None:
        """How many connections a draining member has left; `None` for unknown.

        Only a count from after its last hand-over holds all of them.
        """
        if self.report is None or self.report.counted_under != self.view:
            return None
        return self.report.flows

    @property
    def is_settled(self) -> bool:
        """Whether its report describes its kernel under the current view."""
        return self.report is not None and self.report.view == self.view


@dataclass(frozen=True)
class OrderRequest:
    """One order: how it `change`s the former order, and when it `is_done`."""

    member: int
    change: Callable[[Order], Order]
    is_done: Callable[[MemberLook], bool]


def member_id(text: str) -> int:
    """Read a member's id; ConfigError for anything else."""
    if not re.fullmatch(r"[1-9][0-9]{0,6}", text, re.ASCII) or int(text) > views.MAX_ID:
        raise ConfigError(f"{printable(text)}: a member's id is a number from 1 to {views.MAX_ID}")
    return int(text)


def run(
    text: str, name: str, arguments: list[str], request: Callable[[dict[str, Any]], OrderRequest]
) -> int:
    """Run one of the three commands; `request` makes the order from its parsed command line."""
    return command.run(
        text.format(options=cluster_address.OPTIONS, waiting=OPTIONS),
        name,
        arguments,
        lambda parsed: _run(parsed, request(parsed)),
    )


def _run(arguments: dict[str, Any], request: OrderRequest) -> int:
    address, timeout_s = cluster_address.read(arguments), _timeout_s(arguments["--timeout"])
    show = _json if arguments["--json"] else _text
    return asyncio.run(
        _carry_out(address, request, 0.0 if arguments["--no-wait"] else timeout_s, show)
    )


def _timeout_s(text: str) -> float:
    if (
        not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text, re.ASCII)
        or float(text) > MAX_TIMEOUT_S
    ):
        raise ConfigError(
            f"--timeout={printable(text)}: must be 0 to {MAX_TIMEOUT_S} seconds, such as 60 or 0.5"
        )
    return float(text)


async def _carry_out(
    address: ClusterAddress,
    request: OrderRequest,
    timeout_s: float,
    show: Callable[[int, MemberLook, bool], None],
) -> int:
    async with cluster_address.session(address) as session:
        paths = await cluster_address.cluster(session, address, cluster_address.vip(address))
        await _require_member_id(session, paths, request.member)
        await _order(session, paths, request)
        return await _follow(session, paths, request, timeout_s, show)


async def _require_member_id(session: Session, paths: Paths, member: int) -> None:
    agreed = await observer.read_settings(session, paths)
    if member > agreed.total_nodes:
        raise ConfigError(
            f"{member}: ids in this cluster go from 1 to {agreed.total_nodes}, its total-nodes"
        )


async def _order(session: Session, paths: Paths, request: OrderRequest) -> None:
    path = paths.order(request.member)
    for _attempt in range(ATTEMPTS):
        node = await session.get(path)
        before: Order | None = Order()
        if node is not None:
            try:
                before = orders.decode(node.data)
            except ValueError:  # no member obeys it: replaced by what is asked for
                before = None
        wanted = request.change(before or Order())
        if wanted == before:
            return
        try:
            await session.commit(
                [_operation(path, wanted, None if node is None else node.stat.version)]
            )
        except Refused as refused:
            if refused.reason.missing and node is None:
                with suppress(Refused):
                    await session.commit([Create(paths.orders, b"", ephemeral=False)])
        else:
            return
    raise ZooKeeperError(f"{path}: another command keeps changing this order; try again")


def _operation(path: str, wanted: Order, version: int | None) -> Operation:
    if version is None:
        return Create(path, wanted.encode(), ephemeral=False)
    return Delete(path, version) if wanted == Order() else Write(path, wanted.encode(), version)


async def _follow(
    session: Session,
    paths: Paths,
    request: OrderRequest,
    timeout_s: float,
    show: Callable[[int, MemberLook, bool], None],
) -> int:
    """Print each change until the order is carried out; returns the exit status.

    That is 0 also for a member that is absent, and `NOT_YET` when the time is up.
    """
    deadline_s = time.monotonic() + timeout_s
    news = _PrintedLines()
    while True:
        look = await _look(session, paths, request.member)
        done = request.is_done(look)
        if news.is_news(look, done=done):
            show(request.member, look, done)
        if done or look.record is None or timeout_s == 0:
            return 0
        if time.monotonic() >= deadline_s:
            sys.stderr.write(
                f"maglev0: not carried out within {timeout_s:g} s; the order stays,"
                " and the member follows it as soon as it can\n"
            )
            return NOT_YET
        await asyncio.sleep(min(LOOK_S, max(0.0, deadline_s - time.monotonic())))


class _PrintedLines:
    """What was shown of a member: no line is shown twice, and connections every `PROGRESS_S`."""

    def __init__(self) -> None:
        self._shown: object = None
        self._left: int | None = None
        self._shown_s = -math.inf

    def is_news(self, look: MemberLook, *, done: bool) -> bool:
        """Whether to show this look, which counts as shown then."""
        report, left = look.report, look.connections_left
        found = (
            look.record,
            None if report is None else (report.held, report.kept > 0, left is None),
            done,
        )
        is_due = left != self._left and time.monotonic() >= self._shown_s + PROGRESS_S
        if found == self._shown and not is_due:
            return False
        self._shown, self._left, self._shown_s = found, left, time.monotonic()
        return True


async def _look(session: Session, paths: Paths, member: int) -> MemberLook:
    record, report, parent = await session.get_all(
        [paths.member(member), paths.report(member), paths.members]
    )
    return MemberLook(
        observer.readable(record, lambda data: views.decode(str(member), data)),
        observer.readable(report, node_report.decode),
        ViewId(0, 0, 0) if parent is None else view_id(parent.stat),
    )


def _text(member: int, look: MemberLook, done: bool) -> None:
    name = name_of(member)
    if look.record is None:
        print(f"{name} is absent: it follows the order when it joins", flush=True)  # noqa: T201  the command's answer
        return
    report = look.report
    parts = [f"{name} is {look.record.state}, weight {look.record.weight}"]
    if report is not None:
        parts.append(f"{report.held} buckets in force")
        if look.record.state == DRAINING:
            left = look.connections_left
            parts.append(
                "connections not counted yet" if left is None else f"{left} connections left"
            )
        elif report.kept:
            parts.append(f"connections kept in {report.kept} more buckets")
    print(": ".join((parts[0], ", ".join(parts[1:]))) + ("; done" if done else ""), flush=True)  # noqa: T201


def _connections(look: MemberLook) -> int | None:
    if look.record is not None and look.record.state == DRAINING:
        return look.connections_left
    return None if look.report is None else look.report.flows


def _json(member: int, look: MemberLook, done: bool) -> None:
    record, report = look.record, look.report
    value = {
        "member": member,
        "present": record is not None,
        "state": record and record.state,
        "weight": record and record.weight,
        "held": report and report.held,
        "connections": _connections(look),
        "kept": report and report.kept,
        "done": done,
    }
    print(json.dumps(value), flush=True)  # noqa: T201
