"""Whose znodes are whose, by their ACLs."""

from __future__ import annotations

import pytest

from maglev0.coordination import acl
from maglev0.coordination.acl import ALL, AclEntry, AclJudge

MINE = AclEntry(ALL, "digest", "me:hash")
CERTIFICATE = AclEntry(ALL, "x509", "CN=host")
ANYBODY = AclEntry(ALL, "world", "anyone")


@pytest.fixture
def known() -> AclJudge:
    made = AclJudge("digest")
    assert made.learn([CERTIFICATE, MINE])
    return made


def test_of_all_identities_of_a_connection_one_counts(known: AclJudge) -> None:
    assert known.own == {MINE}
    assert not AclJudge("sasl").learn([CERTIFICATE, MINE])
    assert not AclJudge("digest").learn([MINE._replace(perms=1)])


@pytest.mark.parametrize(
    ("acl", "aversion", "ours"),
    [
        ([MINE], 0, True),
        ([MINE], 1, False),  # it was another's meanwhile, or may have been
        ([MINE, ANYBODY], 0, False),
        ([MINE, AclEntry(1, "world", "anyone")], 0, False),
        ([MINE._replace(perms=1)], 0, False),
        ([MINE._replace(id="me:other")], 0, False),
        ([], 0, False),
    ],
)
def test_ours_is_what_nobody_else_may_touch_or_ever_could(
    known: AclJudge, acl: list[AclEntry], aversion: int, ours: bool
) -> None:
    assert known.verdict("/a", 5, aversion) is None
    known.judge("/a", 5, aversion, acl)
    assert known.known("/a")
    assert known.verdict("/a", 5, aversion) is ours


def test_a_verdict_is_of_one_znode_and_one_acl(known: AclJudge) -> None:
    known.judge("/a", 5, 0, [MINE])
    assert known.verdict("/a", 6, 0) is None
    assert known.verdict("/a", 5, 1) is None
    assert known.verdict("/b", 5, 0) is None
    known.forget("/a")
    known.forget("/b")
    assert not known.known("/a")


def test_no_more_is_remembered_than_there_is_room_for(
    known: AclJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acl, "MAX_KNOWN", 2)
    for path in ("/a", "/b", "/a", "/c"):
        known.judge(path, 5, 0, [MINE])
    assert [path for path in ("/a", "/b", "/c") if known.known(path)] == ["/a", "/c"]
