"""What drain, undrain and weight have in common: they leave an order in ZooKeeper, and tell how the member follows it."""

from __future__ import annotations

import asyncio
import json
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
from maglev0.core.view import Member, ViewId, name_of
from maglev0.errors import ConfigError, ZooKeeperError
from maglev0.operator import command, connection
from maglev0.operator.connection import ClusterAddress
from maglev0.protocol import orders
from maglev0.protocol.membership import view_id
from maglev0.protocol.orders import Order
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import Create, Delete, Operation, Refused, Write
from maglev0.telemetry import node_report, observer
from maglev0.telemetry.node_report import NodeReport

OPTIONS = """\
  --no-wait               leave the order and return; left out: wait until it is carried out, and tell how far it is
  --timeout=<S>           wait no longer than that many seconds; the order stays [default: 3600]
"""
MAX_TIMEOUT_S = 86400
LOOK_S = 0.5
ATTEMPTS = 10  # at an order that somebody else changes at the same time
NOT_YET = 1


class MemberLook(NamedTuple):
    """What a member says now; `record` is `None` where it is not there."""

    record: Member | None
    report: NodeReport | None
    view: ViewId

    @property
    def is_settled(self) -> bool:
        """Whether its kernel was read back under the view that is current."""
        return self.report is not None and self.report.view == self.view


@dataclass(frozen=True)
class OrderRequest:
    """One order: how it `change`s what was ordered before, and from which look on it `is_done`."""

    member: int
    change: Callable[[Order], Order]
    is_done: Callable[[MemberLook], bool]


def member_id(text: str) -> int:
    """Read a member's id; ConfigError where it is none."""
    if not re.fullmatch(r"[1-9][0-9]{0,6}", text, re.ASCII) or int(text) > views.MAX_ID:
        raise ConfigError(f"{printable(text)}: allowed is a member's id, from 1 to {views.MAX_ID}")
    return int(text)


def run(
    text: str, name: str, arguments: list[str], errand: Callable[[dict[str, Any]], OrderRequest]
) -> int:
    """Run one of the three commands with what stands behind its name; `errand` is what its parsed command line asks for."""
    return command.run(
        text.format(options=connection.OPTIONS, waiting=OPTIONS),
        name,
        arguments,
        lambda parsed: _run(parsed, errand(parsed)),
    )


def _run(arguments: dict[str, Any], errand: OrderRequest) -> int:
    whom, timeout_s = connection.read(arguments), _timeout_s(arguments["--timeout"])
    show = _json if arguments["--json"] else _text
    return asyncio.run(_carry_out(whom, errand, 0.0 if arguments["--no-wait"] else timeout_s, show))


def _timeout_s(text: str) -> float:
    if (
        not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text, re.ASCII)
        or float(text) > MAX_TIMEOUT_S
    ):
        raise ConfigError(
            f"--timeout={printable(text)}: allowed are 0 to {MAX_TIMEOUT_S} seconds, as 60 or 0.5"
        )
    return float(text)


async def _carry_out(
    whom: ClusterAddress,
    errand: OrderRequest,
    timeout_s: float,
    show: Callable[[int, MemberLook, bool], None],
) -> int:
    async with connection.session(whom) as session:
        paths = await connection.cluster(session, whom, connection.vip(whom))
        await _require_member_id(session, paths, errand.member)
        await _order(session, paths, errand)
        return await _follow(session, paths, errand, timeout_s, show)


async def _require_member_id(session: Session, paths: Paths, member: int) -> None:
    agreed = await observer.read_settings(session, paths)
    if member > agreed.total_nodes:
        raise ConfigError(
            f"{member}: allowed are the ids of the cluster's members, from 1 to {agreed.total_nodes}, its total-nodes"
        )


async def _order(session: Session, paths: Paths, errand: OrderRequest) -> None:
    path = paths.order(errand.member)
    for _attempt in range(ATTEMPTS):
        node = await session.get(path)
        before = Order()
        if node is not None:
            with suppress(ValueError):  # what cannot be read is in force nowhere
                before = orders.decode(node.data)
        wanted = errand.change(before)
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
    raise ZooKeeperError(f"{path}: somebody else orders all the while; ask again")


def _operation(path: str, wanted: Order, version: int | None) -> Operation:
    if version is None:
        return Create(path, wanted.encode(), ephemeral=False)
    return Delete(path, version) if wanted == Order() else Write(path, wanted.encode(), version)


async def _follow(
    session: Session,
    paths: Paths,
    errand: OrderRequest,
    timeout_s: float,
    show: Callable[[int, MemberLook, bool], None],
) -> int:
    """Tell what changes until the order is carried out; 0 then, or where nobody is there yet to carry it out."""
    deadline_s = time.monotonic() + timeout_s
    said: object = None
    while True:
        look = await _look(session, paths, errand.member)
        done = errand.is_done(look)
        news = (
            look.record,
            None if look.report is None else (look.report.held, look.report.flows),
            done,
        )
        if news != said:
            show(errand.member, look, done)
            said = news
        if done or look.record is None or timeout_s == 0:
            return 0
        if time.monotonic() >= deadline_s:
            sys.stderr.write(
                f"maglev0: not carried out within {timeout_s:g} s; the order stays, and is followed as soon as it can be\n"
            )
            return NOT_YET
        await asyncio.sleep(min(LOOK_S, max(0.0, deadline_s - time.monotonic())))


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
        print(f"{name} is not there: the order holds when it comes", flush=True)  # noqa: T201  the command's answer
        return
    report = look.report
    parts = [f"{name} is {look.record.state}, weight {look.record.weight}"]
    if report is not None:
        parts.append(f"{report.held} node numbers in force")
        if report.kept:
            parts.append(f"connections kept in {report.kept} more")
    print(": ".join((parts[0], ", ".join(parts[1:]))) + ("; done" if done else ""), flush=True)  # noqa: T201


def _json(member: int, look: MemberLook, done: bool) -> None:
    record, report = look.record, look.report
    value = {
        "member": member,
        "present": record is not None,
        "state": record and record.state,
        "weight": record and record.weight,
        "held": report and report.held,
        "flows": report and report.flows,
        "kept": report and report.kept,
        "done": done,
    }
    print(json.dumps(value), flush=True)  # noqa: T201
