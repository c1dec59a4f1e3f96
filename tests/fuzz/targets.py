"""Everything that reads data which others may have written, and what must always hold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from maglev0.config.configuration import ZooKeeperAddress
from maglev0.coordination import session_file
from maglev0.coordination.session import Identity
from maglev0.core import settings, view
from maglev0.core.view import Child, ViewId
from maglev0.protocol import membership, orders
from maglev0.protocol.handover import Ack, Phase
from maglev0.protocol.membership import LeaseRecord
from maglev0.protocol.orders import Order
from maglev0.telemetry import node_report
from maglev0.telemetry.node_report import NodeReport
from tests.fuzz import mutations
from tests.support.members import SOMEONE, member_records
from tests.support.settings import AGREED, agreed

LONGEST_TEXT = 255  # in anything that is shown
LONGEST_FAULT = 200  # of what says what is wrong: that may be a text of the record
ME = 7
TIMEOUT_S = 4.0
KERNEL = "0f0e0d0c-boot/4026531840"
ZK = ZooKeeperAddress("zk1:2181", "")

texts = st.text(st.characters(codec="utf-8"), max_size=LONGEST_TEXT).filter(str.isprintable)
kernels = st.text(st.characters(codec="utf-8"), max_size=membership.MAX_KERNEL).filter(
    str.isprintable
)
short_texts = st.text(st.characters(codec="utf-8"), max_size=32).filter(str.isprintable)
zxids = st.integers(0, (1 << 63) - 1)
versions = st.integers(-(1 << 31), (1 << 31) - 1)
view_ids = st.builds(ViewId, zxids, versions, versions)
weights = st.integers(0, view.MAX_WEIGHT)
times = st.floats(-view.MAX_START_TIME_S, view.MAX_START_TIME_S)
buckets = st.integers(0, view.MAX_ID)

valid_orders = st.builds(Order, st.booleans(), st.none() | weights)
valid_acks = st.builds(Ack, view_ids, st.sampled_from(Phase))
valid_leases = st.builds(
    LeaseRecord, kernels, st.integers(1, 1 << 22), st.none() | view_ids, st.booleans()
)
valid_reports = st.builds(
    NodeReport,
    read_at=times,
    view=st.none() | view_ids,
    view_at=times,
    held=buckets,
    digest=short_texts,
    lease_left_s=st.floats(-node_report.MAX_LEASE_S, node_report.MAX_LEASE_S),
    kept=buckets,
    flows=st.none() | st.integers(0, 1 << 32),
    counted_under=st.none() | view_ids,
    pause_s=st.floats(0, node_report.MAX_PAUSE_S),
    able=st.booleans(),
    problems=st.lists(texts, max_size=node_report.MAX_REASONS).map(tuple),
    xdp=short_texts,
    version=short_texts,
    before=st.dictionaries(st.integers(1, view.MAX_ID), weights, max_size=8),
)


class Target(NamedTuple):
    """Something that reads data.

    On invalid data `decode` raises one of `refusals` or, without any, returns `None`. `sample` is
    a complete record as a daemon writes it, and `valid` makes more of them; `longest` is the
    number of bytes that the reader looks at.
    """

    name: str
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    sample: bytes
    valid: st.SearchStrategy[bytes]
    longest: int
    refusals: tuple[type[Exception], ...] = (ValueError,)


def target(
    name: str,
    decode: Callable[[bytes], Any],
    sample: Any,
    valid: st.SearchStrategy[Any],
    longest: int,
) -> Target:
    """One whose values know how they are written."""
    return Target(name, decode, encoded, encoded(sample), valid.map(encoded), longest)


def lenient(strict: Target) -> Target:
    """One that raises nothing."""
    return strict._replace(refusals=())


def encoded(value: Any) -> bytes:
    data = value.encode()
    assert isinstance(data, bytes)
    return data


SOME_VIEW = ViewId(0x100000002, 3, 4)
SOME_REPORT = NodeReport(
    1.7e9,
    SOME_VIEW,
    1.7e9,
    5,
    "0" * 24,
    1.5,
    6,
    7,
    SOME_VIEW,
    1.0,
    True,
    ("tcp:80 refuses",),
    "native",
    "1.0",
    {1: 1, ME: 2},
)
MEMBERS = member_records.map(lambda some: replace(some, id=ME))
RECORDS = (
    target("settings", settings.decode, AGREED, agreed, settings.MAX_SETTINGS_BYTES),
    target(
        "member",
        lambda data: view.decode(str(ME), data),
        replace(SOMEONE, id=ME),
        MEMBERS,
        view.MAX_MEMBER_BYTES,
    ),
    target("order", orders.decode, Order(True, 3), valid_orders, orders.MAX_ORDER_BYTES),
    target("report", node_report.decode, SOME_REPORT, valid_reports, node_report.MAX_REPORT_BYTES),
    lenient(
        target(
            "lease",
            membership.decode_lease,
            LeaseRecord(KERNEL, 1, SOME_VIEW),
            valid_leases,
            membership.MAX_SMALL_BYTES,
        )
    ),
    lenient(
        target(
            "acknowledgement",
            membership.decode_ack,
            Ack(SOME_VIEW, Phase.RELEASED),
            valid_acks,
            membership.MAX_SMALL_BYTES,
        )
    ),
)


def almost(target: Target) -> st.SearchStrategy[bytes]:
    """Data that almost make sense to a target."""
    return mutations.mutated(target.valid)


@st.composite
def children(draw: st.DrawFn) -> tuple[int, list[Child]]:
    """Number of buckets, and children of the members' parent: members, almost members, others."""
    member = next(target for target in RECORDS if target.name == "member")
    records = almost(member) | member.valid | st.binary(max_size=20)
    some = st.builds(
        Child,
        mutations.names | st.just(str(ME)),
        records,
        st.integers(0, 3),
        st.integers(0, 9),
        st.booleans(),
    )
    return draw(st.sampled_from([1, 16, 1000, view.MAX_ID])), draw(st.lists(some, max_size=5))


def left_session(directory: Path) -> Target:
    """The file for the next daemon: only root writes it, but a crash may leave anything in it."""

    def file() -> session_file.SessionFile:
        found = session_file.SessionFile(IPv4Address("198.51.100.1"), ZK, KERNEL)
        found.path = directory / "session"
        return found

    def decode(data: bytes) -> session_file.SavedSession | None:
        file().path.write_bytes(data)
        return file().read(TIMEOUT_S)

    def encode(left: session_file.SavedSession) -> bytes:
        file().write(left)
        return file().path.read_bytes()

    identities = st.builds(
        Identity, st.integers(-(1 << 63), (1 << 63) - 1), st.binary(max_size=16), st.just(TIMEOUT_S)
    )
    valid = st.builds(session_file.SavedSession, identities, agreed).map(encode)
    sample = encode(session_file.SavedSession(Identity(-1, b"sixteen bytes...", TIMEOUT_S), AGREED))
    return lenient(Target("session file", decode, encode, sample, valid, 1 << 20))


def check(target: Target, data: bytes) -> None:
    """What holds for every target and all data."""
    try:
        value = target.decode(data)
    except target.refusals as error:
        check_fault(str(error))
        return
    if value is None:
        assert not target.refusals
        return
    assert len(data) <= target.longest
    check_value(value)
    again = target.encode(value)
    assert target.decode(again) == value


def check_held(total_nodes: int, data: bytes) -> None:
    """The same for the buckets that a kernel is said to hold."""
    try:
        found = node_report.unpack(total_nodes, data)
    except ValueError as error:
        check_fault(str(error))
        return
    assert all(1 <= bucket <= total_nodes for bucket in found)
    assert node_report.unpack(total_nodes, node_report.pack(total_nodes, found)) == found


def check_children(total_nodes: int, found: Sequence[Child]) -> None:
    """The same for names and records of children of the members' parent."""
    names = [child.name for child in found]
    ids, foreign = view.candidate_ids(names, total_nodes)
    assert Counter(ids) + Counter(foreign) == Counter(names)
    assert len(ids) <= view.MAX_CANDIDATES
    assert all(str(int(name)) == name and 1 <= int(name) <= total_nodes for name in ids)
    members, ignored = view.read_members(child for child in found if child.name in ids)
    assert len(members) <= view.MAX_MEMBERS
    assert [member.id for member in members] == sorted(member.id for member in members)
    assert Counter(
        [*(str(member.id) for member in members), *(one.name for one in ignored)]
    ) == Counter(name for name in names if name in ids)
    for member in members:
        check_value(member)
    for one in ignored:
        check_fault(one.reason)


def check_fault(text: str) -> None:
    """What is said of bad data may go to a log and a terminal."""
    assert text.isprintable()
    assert 0 < len(text) <= LONGEST_FAULT


def check_value(value: object) -> None:
    """Everything in a value is of bounded size, finite, and printable where it is text."""
    match value:
        case str():
            assert value.isprintable()
            assert len(value) <= LONGEST_TEXT
        case float():
            assert math.isfinite(value)
        case int():
            assert abs(value) <= 1 << 64
        case bytes():
            assert len(value) <= LONGEST_TEXT
        case tuple():
            check_all(value, node_report.MAX_REASONS)
        case dict():
            check_all([*value.keys(), *value.values()], 2 * view.MAX_MEMBERS)
        case _ if is_dataclass(value):
            check_all([getattr(value, field.name) for field in fields(value)], 32)
        case _:
            assert value is None


def check_all(values: Sequence[object], most: int) -> None:
    assert len(values) <= most
    for value in values:
        check_value(value)
