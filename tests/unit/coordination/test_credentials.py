"""The files of --zk-auth and of TLS: each fault is one line, which never shows their content."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from maglev0.config.zookeeper_access import ZooKeeperAccess
from maglev0.coordination import credentials
from maglev0.errors import ConfigError
from tests.zookeeper.certificates import Authority

PASSWORD = "correct horse: battery"  # noqa: S105  of nobody


def _access(path: object) -> ZooKeeperAccess:
    return ZooKeeperAccess("digest", "maglev", str(path))


def _file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [PASSWORD, f"{PASSWORD}\n", f"{PASSWORD}\r\n"])
def test_the_password_is_the_one_line_of_its_file(tmp_path: Path, content: str) -> None:
    assert (
        credentials.password(_access(_file(tmp_path / "password", content.encode(), 0o400)))
        == PASSWORD
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601])
def test_a_password_that_others_can_reach_is_refused_with_what_mends_it(
    tmp_path: Path, mode: int
) -> None:
    path = _file(tmp_path / "password", PASSWORD.encode(), mode)
    with pytest.raises(
        ConfigError,
        match=f"^--zk-auth=digest:maglev: other users can read or change .* chmod 600 {path}$",
    ):
        credentials.password(_access(path))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"two\nlines", "more than one line"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"x" * 5000, "longer than 1024 bytes, the limit of a password"),
    ],
)
def test_a_file_without_a_password_is_told_so(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^--zk-auth=digest:maglev: .*{why}") as told:
        credentials.password(_access(_file(tmp_path / "password", content)))
    assert not content.strip() or content.decode(errors="replace") not in str(told.value)


def test_what_cannot_be_opened_is_not_repeated_for_it_may_be_the_password() -> None:
    with pytest.raises(
        ConfigError,
        match="cannot read the password file, named after the user: no such file or directory",
    ) as told:
        credentials.password(_access(PASSWORD))
    assert PASSWORD not in str(told.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="is not a regular file"):
        credentials.password(_access(tmp_path / "pipe"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


def test_only_the_named_authority_is_trusted_by_name_and_by_modern_tls(
    authority: Authority,
) -> None:
    assert credentials.tls(ZooKeeperAccess()) is None
    client = str(authority.issue("client"))
    context = credentials.tls(
        ZooKeeperAccess(ca=str(authority.certificate), cert=client, key=client)
    )
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert [found["subject"] for found in context.get_ca_certs()] == [
        ((("commonName", "authority"),),)
    ]
    assert credentials.tls(ZooKeeperAccess(ca=str(authority.certificate))) is not None


def test_what_is_wrong_with_certificates_and_keys_is_told_by_flag(
    authority: Authority, tmp_path: Path
) -> None:
    ca, one, another = (
        str(authority.certificate),
        str(authority.issue("one")),
        str(authority.issue("another")),
    )
    text, nothing = str(_file(tmp_path / "text", b"no certificate")), str(tmp_path / "nothing")
    wrong = {
        f"--zk-ca={nothing}: no such file": ZooKeeperAccess(ca=nothing),
        f"--zk-ca={text}: not a certificate in PEM form": ZooKeeperAccess(ca=text),
        f"--zk-cert={nothing}: cannot read this file": ZooKeeperAccess(
            ca=ca, cert=nothing, key=one
        ),
        f"--zk-key={nothing}: cannot read this file": ZooKeeperAccess(ca=ca, cert=one, key=nothing),
        f"--zk-key={another}: not the key of --zk-cert={one}": ZooKeeperAccess(
            ca=ca, cert=one, key=another
        ),
        f"--zk-cert={text}, --zk-key={one}: not a certificate and its key in PEM": ZooKeeperAccess(
            ca=ca, cert=text, key=one
        ),
        f"--zk-cert={one}, --zk-key={tmp_path}: ": ZooKeeperAccess(
            ca=ca, cert=one, key=str(tmp_path)
        ),
    }
    for message, access in wrong.items():
        with pytest.raises(ConfigError, match=f"^{message}"):
            credentials.tls(access)


def test_a_key_with_a_passphrase_is_refused_and_not_asked_for(authority: Authority) -> None:
    cert, locked = authority.issue("locked"), authority.locked("locked")
    with pytest.raises(ConfigError, match=r"without a passphrase$"):
        credentials.tls(
            ZooKeeperAccess(ca=str(authority.certificate), cert=str(cert), key=str(locked))
        )
