"""The identity of a node: its flags, and how a cluster treats znodes that are not its own."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maglev0.config.zookeeper_access import NOBODY, ZooKeeperAccess, parse_auth, parse_file
from maglev0.errors import ZooKeeperError
from maglev0.protocol.agreement import Unsettled
from tests.simulation.tree import Tree
from tests.support.direct import run
from tests.support.lone_node import PATHS, living
from tests.support.lone_node import Node as LoneNode


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("digest:maglev:/etc/maglev0/password", ("digest", "maglev", "/etc/maglev0/password")),
        ("sasl:a.b-c_9:with:colons and blanks", ("sasl", "a.b-c_9", "with:colons and blanks")),
    ],
)
def test_auth_is_scheme_user_and_password_file(text: str, found: tuple[str, str, str]) -> None:
    assert parse_auth(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "digest",
        "digest:user",
        "digest:user:",
        "digest::/file",
        "plain:user:/file",
        "digest:a@b:/file",
        f"digest:{'u' * 65}:/f",
        "digest:u:/\n",
    ],
)
def test_what_is_no_auth_is_told_what_is(text: str) -> None:
    with pytest.raises(
        ValueError, match="must be digest:USER:PASSWORD-FILE or sasl:USER:PASSWORD-FILE"
    ):
        parse_auth(text)


@given(st.text())
def test_no_text_is_taken_for_more_than_it_says(text: str) -> None:
    with suppress(ValueError):
        assert ":".join(parse_auth(text)) == text


def test_a_file_is_a_printable_path() -> None:
    assert parse_file("/etc/ca.pem") == "/etc/ca.pem"
    for text in ("", "a\nb"):
        with pytest.raises(ValueError, match="must be the path of a file"):
            parse_file(text)


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ((None, None, "key"), "--zk-key needs --zk-cert"),
        (("ca", "cert", None), "--zk-cert needs --zk-key"),
        ((None, "cert", "key"), "--zk-cert needs --zk-ca"),
    ],
)
def test_flags_that_need_each_other(
    files: tuple[str | None, str | None, str | None], missing: str
) -> None:
    with pytest.raises(ValueError, match=missing):
        ZooKeeperAccess.checked(None, *files)


@pytest.mark.parametrize(
    ("access", "scheme", "text"),
    [
        (NOBODY, None, "in the clear as nobody"),
        (
            ZooKeeperAccess.checked(("digest", "u", "secret"), None, None, None),
            "digest",
            "in the clear as digest user u",
        ),
        (
            ZooKeeperAccess.checked(("sasl", "u", "secret"), "ca", "cert", "key"),
            "sasl",
            "by TLS as sasl user u",
        ),
        (
            ZooKeeperAccess.checked(None, "ca", "cert", "key"),
            "x509",
            "by TLS as its certificate's subject",
        ),
        (ZooKeeperAccess.checked(None, "ca", None, None), None, "by TLS as nobody"),
    ],
)
def test_one_identity_is_enough_and_a_text_tells_which(
    access: ZooKeeperAccess, scheme: str | None, text: str
) -> None:
    assert access.identity_scheme == scheme
    assert str(access) == text
    assert "secret" not in repr(
        access
    )  # where its file's name should be, somebody may have given the password


def _taken_over(tree: Tree, path: str) -> None:
    """Somebody else owns that znode."""
    tree.nodes[path] = tree.nodes[path]._replace(ours=False)


@pytest.mark.parametrize("path", [PATHS.base, *PATHS.parents, PATHS.settings])
def test_a_node_does_not_start_below_what_others_may_change(
    tree: Tree, node: LoneNode, path: str
) -> None:
    _taken_over(tree, path)
    with pytest.raises(
        ZooKeeperError,
        match=f"{path} is not this cluster's alone, .*: correct --zk-auth, or stop all daemons "
        f".*deleteall {PATHS.base}",
    ):
        LoneNode(tree).agree()
    assert node.tree is tree


@pytest.mark.usefixtures("node")
def test_what_lies_above_may_be_anybodys(tree: Tree) -> None:
    _taken_over(tree, "/a")
    _taken_over(tree, "/a/maglev0")
    LoneNode(tree).agree()


def test_settings_that_others_may_change_are_replaced_by_members_and_stop_who_is_none(
    tree: Tree, member: LoneNode
) -> None:
    founded = tree.nodes[PATHS.settings]
    living(tree)
    _taken_over(tree, PATHS.settings)
    with pytest.raises(ZooKeeperError, match="are not this cluster's alone"):
        run_confirm(member, registered=False)
    with pytest.raises(Unsettled):
        run_confirm(member, registered=True)
    made = tree.nodes[PATHS.settings]
    assert (made.data, made.ours) == (founded.data, True)
    assert made.stat.czxid > founded.stat.czxid
    assert run_confirm(member, registered=True) == made.stat.version


def run_confirm(node: LoneNode, *, registered: bool) -> int:
    return run(node.agreement.confirm(registered=registered))
