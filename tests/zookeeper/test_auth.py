"""A cluster with an identity: strangers change nothing, and a refused node says why."""

from __future__ import annotations

import asyncio
import json
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.exceptions import NoAuthError
from kazoo.security import OPEN_ACL_UNSAFE, make_digest_acl

from maglev0.config.configuration import parse_zk
from maglev0.config.zookeeper_access import ZooKeeperAccess
from maglev0.coordination.session import Session, SessionState
from maglev0.core.settings import FORMAT
from maglev0.lab.testbed.zookeeper import Ensemble, Security
from maglev0.protocol.ports.zookeeper import Create, Write
from tests.zookeeper.guarded import PASSWORD, USER, Guard
from tests.zookeeper.site import DEADLINE_S, Node, Site
from tests.zookeeper.thief import RECORD, take_session_away

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kazoo.client import KazooClient

pytestmark = pytest.mark.zookeeper

TELLING = "warning: no ZooKeeper session, retrying: "


@pytest.fixture
def insider(guard: Guard) -> Iterator[KazooClient]:
    with guard.visitor(PASSWORD) as client:
        yield client


@pytest.fixture
def outsider(guard: Guard) -> Iterator[KazooClient]:
    with guard.visitor() as client:
        yield client


@pytest.fixture
def place(
    guard: Guard, insider: KazooClient, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Site]:
    """A chroot of its own for each test; the site's client has the cluster's password."""
    made = Site(guard.ensemble, insider, f"/{request.node.name}"[:40].rstrip("["), tmp_path)
    yield made
    made.close()


def _start(place: Site, guard: Guard, number: int, *flags: str) -> Node:
    """Start a daemon that comes by TLS and digest, unless flags say otherwise."""
    return place.start(
        number, *(flags or (guard.auth(), *guard.tls)), zk=guard.ensemble.secure_connect_string
    )


def _joined(place: Site, guard: Guard, *numbers: int) -> list[Node]:
    nodes = [_start(place, guard, number) for number in numbers]
    place.agreed(*nodes)
    return nodes


def _znodes(client: KazooClient, path: str) -> dict[str, Any]:
    """All znodes, without those that members write all the time: leases and reports."""
    found = {path: client.get(path)}
    for name in client.get_children(path):
        if name not in ("leases", "reports", "held"):
            found |= _znodes(client, f"{path}/{name}")
    return found


def test_an_outsider_can_neither_read_nor_change_anything(
    place: Site, guard: Guard, outsider: KazooClient
) -> None:
    nodes = _joined(place, guard, 1, 2)
    forged = json.dumps(RECORD | {"id": 3}).encode()
    order = b'{"format": %d, "drained": true, "weight": 1000}' % FORMAT
    before, lines = _znodes(place.client, place.base), [node.lines for node in nodes]
    parents = ["members", "acks", "leases", "orders", "reports", "held"]
    attempts: list[Callable[[], object]] = [
        lambda: outsider.create(place.member_path(3), forged, ephemeral=True),
        lambda: outsider.create(f"{place.base}/orders/1", order),
        lambda: outsider.set(place.member_path(1), forged),
        lambda: outsider.set(
            f"{place.base}/leases/1", b'{"kernel": "", "pid": 1, "secure": null, "released": true}'
        ),
        lambda: outsider.delete(f"{place.base}/leases/2"),
        lambda: outsider.delete(f"{place.base}/acks/2"),
        lambda: outsider.delete(place.settings_path),
        lambda: outsider.set(place.settings_path, b"{}"),
        lambda: outsider.get(place.settings_path),
        lambda: outsider.get_acls(place.settings_path),
        lambda: outsider.set_acls(place.settings_path, OPEN_ACL_UNSAFE),
        lambda: outsider.create(f"{place.base}/more"),
        lambda: outsider.delete(place.base),
        *(partial(outsider.delete, f"{place.base}/{name}") for name in parents),
        *(partial(outsider.get_children, f"{place.base}/{name}") for name in parents),
        *(partial(outsider.create, f"{place.base}/{name}/7") for name in parents),
        *(
            partial(outsider.get, f"{place.base}/{name}/1")
            for name in ("members", "leases", "reports", "held")
        ),
    ]
    for attempt in attempts:
        with pytest.raises(NoAuthError):
            attempt()
    place.client.sync(place.base)
    assert _znodes(place.client, place.base) == before
    assert [node.lines for node in nodes] == lines
    place.agreed(*nodes)


def test_members_outside_the_acl_are_not_counted_though_an_insider_made_them(
    place: Site, guard: Guard
) -> None:
    nodes = _joined(place, guard, 1, 2)
    strange = {
        3: OPEN_ACL_UNSAFE,
        4: [make_digest_acl("somebody", "else", all=True)],
        5: [*_acl(place), *OPEN_ACL_UNSAFE],
    }
    for number, acl in strange.items():
        place.client.create(
            place.member_path(number),
            json.dumps(RECORD | {"id": number}).encode(),
            ephemeral=True,
            acl=acl,
        )
    order = b'{"format": %d, "drained": false, "weight": 7}' % FORMAT
    place.client.create(f"{place.base}/orders/1", order, acl=OPEN_ACL_UNSAFE)
    place.client.create(f"{place.base}/orders/2", order, acl=_acl(place))
    place.wait_znode(
        place.member_path(2), lambda data: data is not None and json.loads(data)["weight"] == 7
    )
    for node in nodes:
        for number in strange:
            node.wait_line(
                f"ignored {place.members_path}/{number}: others than this cluster may change it"
            )
    place.agreed(*nodes)
    nodes.append(_start(place, guard, 5))
    nodes[-1].wait_line("id 5 is held by session")
    place.client.delete(place.member_path(5))
    place.agreed(*nodes)
    assert [place.record(number)["weight"] for number in (1, 2, 5)] == [1, 7, 1]


def _acl(place: Site) -> list[Any]:
    """What the daemons give to what they create."""
    found, _stat = place.client.get_acls(place.settings_path)
    assert [(entry.perms, entry.id.scheme) for entry in found] == [(31, "digest")]
    assert found[0].id.id.startswith(f"{USER}:")
    return list(found)


def test_whose_cluster_it_is_not_does_not_start(place: Site, guard: Guard) -> None:
    nodes = _joined(place, guard, 1)
    out = "^maglev0: using ZooKeeper: NoAuthError: an ACL keeps this node out of "
    anybody = place.start(2)
    for node in (
        _start(place, guard, 3, guard.auth("digest", guard.wrong), *guard.tls),
        _start(place, guard, 4, *guard.tls),
    ):
        assert node.ends() == 1
        assert node.count("^maglev0: ") == 1
        assert node.lines[-1].startswith(
            f"maglev0: {place.base} is not this cluster's alone, by its ACL, or was not always: "
            "correct --zk-auth, or "
        )
    assert anybody.ends() == 1
    assert anybody.count(f"{out}/.*: give --zk-auth, or another /chroot in --zk$") == 1
    place.agreed(*nodes)


@pytest.mark.parametrize("part", ["base", "members", "settings"])
def test_a_cluster_that_was_open_is_not_taken_over_but_founded_anew(
    place: Site, guard: Guard, outsider: KazooClient, part: str
) -> None:
    path = {"base": place.base, "members": place.members_path, "settings": place.settings_path}[
        part
    ]
    if part == "base":
        outsider.ensure_path(path)
    else:
        _joined(place, guard, 1)[0].stop()
        place.client.delete(path)
        place.client.create(path, b"{}", acl=OPEN_ACL_UNSAFE)
    late = _start(place, guard, 2)
    assert late.ends() == 1
    assert late.lines[-1].startswith(f"maglev0: {path} is not this cluster's alone, ")
    assert late.lines[-1].endswith(
        f"stop all daemons of this cluster and delete it (zkCli.sh: deleteall {place.base})"
    )
    place.delete_tree(place.base)
    _joined(place, guard, 2)


@pytest.mark.parametrize("scheme", ["sasl", "x509"])
def test_other_identities_serve_as_well(
    place: Site, guard: Guard, outsider: KazooClient, scheme: str
) -> None:
    flags = [guard.auth("sasl"), *guard.tls] if scheme == "sasl" else guard.tls
    nodes = [_start(place, guard, number, *flags) for number in (1, 2)]
    place.agreed(*nodes)
    for client in (outsider, place.client):  # the insider of another scheme is as much a stranger
        with pytest.raises(NoAuthError):
            client.get(place.settings_path)
    lines = [node.count("^connected to ZooKeeper") for node in nodes]
    guard.ensemble.servers[0].restart()
    for node, count in zip(nodes, lines, strict=True):
        node.wait_count("^connected to ZooKeeper", count + 1)
    nodes[1].stop()
    place.agreed(nodes[0])


def test_who_is_not_let_in_is_told_so_once_and_for_all(place: Site, guard: Guard) -> None:
    readable, missing = guard.file("readable", PASSWORD, 0o644), guard.directory / "missing"
    final = {
        (guard.auth("sasl", guard.wrong), *guard.tls): (
            1,
            r"the ZooKeeper servers refuse user maglev of --zk-auth \(wrong user or password\): ",
        ),
        (guard.auth("digest", readable), *guard.tls): (
            2,
            f"--zk-auth=digest:maglev: other users can read or change .*: chmod 600 {readable}$",
        ),
        (guard.auth("digest", missing), *guard.tls): (
            2,
            (
                "--zk-auth=digest:maglev: cannot read the password file, .*: no such file or "
                "directory$"
            ),
        ),
        (f"--zk-ca={guard.password}",): (2, "--zk-ca=.*: not a certificate in PEM form$"),
    }
    nodes = {line: _start(place, guard, 1, *flags) for flags, line in final.items()}
    for (status, line), node in nodes.items():
        assert node.ends() == status
        assert node.count("^maglev0: ") == node.count(f"^maglev0: {line}") == 1


def test_tls_that_fails_is_told_once_for_each_reason(
    place: Site, guard: Guard, tmp_path: Path
) -> None:
    secure, plain = guard.ensemble.secure_connect_string, guard.ensemble.connect_string
    stranger = guard.stranger.issue("client")
    with Ensemble.on_loopback(
        tmp_path / "expired", security=Security(keys=guard.authority.issue("expired", days=-1))
    ) as expired:
        told = {
            "shows an invalid certificate: unable to get local issuer certificate": (
                secure,
                f"--zk-ca={guard.stranger.certificate}",
            ),
            "shows an invalid certificate: certificate has expired": (
                expired.secure_connect_string,
                *guard.tls,
            ),
            "refuses this node's certificate, or demands one: .* bad certificate; see": (
                secure,
                guard.tls[0],
            ),
            "refuses this node's certificate, or demands one: .* certificate unknown; see": (
                secure,
                guard.tls[0],
                f"--zk-cert={stranger}",
                f"--zk-key={stranger}",
            ),
            "does not speak TLS there: give its secureClientPort": (plain, *guard.tls),
            "expects TLS: give --zk-ca": (secure, guard.auth()),
        }
        nodes = {line: place.start(1, *flags, zk=zk) for line, (zk, *flags) in told.items()}
        for line, node in nodes.items():
            node.wait_line(TELLING + rf"\S+ {line}")
            assert node.count("^maglev0|warning") == 1
            node.stop()


def _die(session: Session) -> None:
    """Cut its connection like the end of its process; two clients would fight for the session."""
    session._client._stopped.set()
    session._client._connection._socket.shutdown(socket.SHUT_RDWR)
    assert session._client._connection.connection_stopped.wait(DEADLINE_S)


def test_a_session_is_known_again_after_a_break_and_by_who_comes_after(guard: Guard) -> None:
    """The rights come with the connection, not with the session: each must authenticate anew."""
    address = parse_zk(guard.ensemble.secure_connect_string)
    client = str(guard.client)
    access = ZooKeeperAccess(
        "digest", USER, str(guard.password), str(guard.authority.certificate), client, client
    )

    async def use() -> None:
        session = Session(address, DEADLINE_S, lambda _path: None, access=access)
        session.start()
        await session.until(SessionState.CONNECTED)
        await session.commit([Create("/again", b"", ephemeral=True)])
        guard.ensemble.servers[0].restart()
        await session.until(SessionState.SUSPENDED)
        await session.until(SessionState.CONNECTED)
        await session.commit([Write("/again", b"1", 0)])
        identity = session.identity
        _die(session)
        heir = Session(address, DEADLINE_S, lambda _path: None, identity, access)
        heir.start()
        await heir.until(SessionState.CONNECTED)
        await heir.commit([Write("/again", b"2", 1)])
        found = await heir.get("/again")
        assert found is not None
        assert (found.data, found.stat.owner, found.ours) == (b"2", session.session, True)
        await heir.close()
        await session.close()

    asyncio.run(use())


def test_an_acl_that_changes_is_seen_whatever_was_known_of_it(
    guard: Guard, insider: KazooClient
) -> None:
    path = "/changing"
    access = ZooKeeperAccess("digest", USER, str(guard.password))

    async def use() -> list[bool | None]:
        session = Session(
            parse_zk(guard.ensemble.connect_string), DEADLINE_S, lambda _path: None, access=access
        )
        session.start()
        await session.until(SessionState.CONNECTED)
        seen: list[bool | None] = []

        async def look() -> None:
            found = await session.get(path)
            again = await session.get(path)
            assert found == again
            seen.append(None if found is None else found.ours)

        await look()
        await session.commit([Create(path, b"", ephemeral=False)])
        await look()
        own, _stat = insider.get_acls(path)
        for acl in (OPEN_ACL_UNSAFE, own):
            insider.set_acls(path, acl)
            await look()
        insider.delete(path)
        insider.create(path, acl=own)
        await look()
        insider.delete(path)
        await look()
        await session.close()
        return seen

    assert asyncio.run(use()) == [None, True, False, False, True, None]


def test_a_session_that_an_outsider_ends_is_a_member_that_joins_anew(
    place: Site, guard: Guard
) -> None:
    """What ACLs cannot prevent: a session's password follows from its id, which `exists` shows."""
    nodes = _joined(place, guard, 1, 2)
    take_session_away(place, nodes[1])
    nodes[1].wait_count("joined as", 2)
    place.agreed(*nodes)


def test_a_member_whose_acl_is_opened_under_way_joins_anew_and_all_see_the_same(
    place: Site, guard: Guard
) -> None:
    nodes = _joined(place, guard, 1, 2)
    made = place.client.exists(place.member_path(2)).czxid
    place.client.set_acls(place.member_path(2), OPEN_ACL_UNSAFE)
    nodes.append(_start(place, guard, 3))
    nodes[1].wait_line("somebody else changed the record of backend-2: joining again")
    nodes[1].wait_count("joined as", 2)
    place.agreed(*nodes)
    assert place.client.exists(place.member_path(2)).czxid > made
    assert place.client.get_acls(place.member_path(2))[0] == _acl(place)
