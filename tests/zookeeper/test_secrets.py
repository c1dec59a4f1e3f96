"""Passwords, the hash seed and session passwords are in no output, command line or environment."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kazoo.loggingsupport import BLATHER

from maglev0.config.configuration import parse_zk
from maglev0.config.zookeeper_access import ZooKeeperAccess
from maglev0.coordination.session import Session, SessionState
from maglev0.lab.testbed.process import Process, python_module
from maglev0.protocol.ports.zookeeper import Create
from tests.zookeeper.guarded import PASSWORD, USER, WRONG, Guard
from tests.zookeeper.site import DEADLINE_S, VIP, Node, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.zookeeper

SEED, OTHER_SEED = 3141592653, 2718281828  # long enough to be found nowhere by chance
SECRETS = [
    PASSWORD,
    WRONG,
    *(form for seed in (SEED, OTHER_SEED) for form in (str(seed), f"{seed:x}")),
]
COMMANDS = [
    ("status",),
    ("status", "--json"),
    ("explain", "192.0.2.7"),
    ("explain", "192.0.2.7", "--json"),
    ("weight", "1", "3", "--no-wait"),
    ("drain", "1", "--no-wait"),
    ("undrain", "1", "--no-wait"),
]


def _file(guard: Guard, name: str, seed: int, password: Path) -> Path:
    """A configuration file, for on a command line everybody would see the seed."""
    return guard.file(
        name,
        (
            f'hash-seed = {seed}\nzk-auth = "digest:{USER}:{password}"\nzk-ca = '
            f'"{guard.authority.certificate}"\n{_keys(guard)}'
        ),
    )


def _keys(guard: Guard) -> str:
    return f'zk-cert = "{guard.client}"\nzk-key = "{guard.client}"'


def _found_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


def _open_to_others(node: Node) -> str:
    """What other users of the machine may read of a process, and root."""
    return "\n".join(
        Path(f"/proc/{node.process.pid}/{name}").read_bytes().decode(errors="replace")
        for name in ("cmdline", "comm", "environ")
    )


@pytest.fixture
def site(guard: Guard, tmp_path: Path) -> Iterator[Site]:
    with guard.visitor(PASSWORD) as client:
        made = Site(guard.ensemble, client, "/secrets", tmp_path)
        yield made
        made.close()


def test_no_secret_stands_in_what_daemons_and_commands_print(
    guard: Guard, site: Site, tmp_path: Path
) -> None:
    good = _file(guard, "good.toml", SEED, guard.password)
    other, wrong = (
        _file(guard, "other.toml", OTHER_SEED, guard.password),
        _file(guard, "wrong.toml", SEED, guard.wrong),
    )
    secure = guard.ensemble.secure_connect_string
    nodes = [site.start(number, f"--config={good}", "-v", zk=secure) for number in (1, 2)]
    site.agreed(*nodes)
    assert site.settings()["hash_seed"] == SEED
    founded = site.settings_bytes()
    refused = {
        site.start(
            3, f"--config={other}", "-v", zk=secure
        ): "--hash-seed=… .the cluster has another one.: ",
        site.start(4, f"--config={wrong}", "-v", zk=secure): "/secrets",
    }
    for node, line in refused.items():
        assert node.ends() in (1, 2)
        assert node.count(f"^maglev0: {line}") == 1
    site.client.set(
        site.settings_path, json.dumps(site.settings() | {"hash_seed": OTHER_SEED}).encode()
    )
    site.wait_settings(founded)
    seen = [_open_to_others(node) for node in nodes]
    guard.ensemble.servers[0].restart()
    for node in nodes:
        node.wait_count("^connected to ZooKeeper", 2)
    site.agreed(*nodes)
    where = [f"--zk={secure}{site.chroot}", f"--cluster-ip={VIP}", f"--config={good}"]
    logs = [tmp_path / f"command-{number}.log" for number in range(len(COMMANDS))]
    asked = [
        Process(" ".join(command), python_module("maglev0", *command, *where), log)
        for command, log in zip(COMMANDS, logs, strict=True)
    ]
    seen += [_said(process) for process in asked]
    for node in nodes:
        node.stop()
    seen += [node.process.output() for node in site.nodes]
    assert all(seen)
    assert [_found_in(text) for text in seen] == [[]] * len(seen)


def _said(process: Process) -> str:
    """What a command printed, which is to end by itself."""
    try:
        process.wait(DEADLINE_S)
    finally:
        process.kill()
    assert "Traceback" not in process.output()
    return process.output()


@pytest.mark.parametrize("scheme", ["digest", "sasl"])
def test_even_all_that_kazoo_logs_holds_no_secret(
    guard: Guard, caplog: pytest.LogCaptureFixture, scheme: str
) -> None:
    """The daemon hides most of the log of kazoo; here all of it is kept, as for a diagnosis."""
    caplog.set_level(BLATHER, "maglev0.kazoo")
    access = ZooKeeperAccess(scheme, USER, str(guard.password))

    async def use() -> bytes:
        session = Session(
            parse_zk(guard.ensemble.connect_string), DEADLINE_S, lambda _path: None, access=access
        )
        session.start()
        await session.until(SessionState.CONNECTED)
        await session.commit([Create("/seed", str(SEED).encode(), ephemeral=True)])
        await session.get("/seed")
        identity = session.identity
        await session.close()
        assert identity is not None
        return identity.password

    password = asyncio.run(use())
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "Sending request" in logged
    assert logging.getLogger("maglev0.kazoo").filters
    assert _found_in(logged) == []
    assert password.hex() not in logged
    assert repr(password)[2:-1] not in logged
