"""A ZooKeeper with access control: digest, SASL, TLS and certificates; and clients of each kind."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kazoo.client import KazooClient

from maglev0.lab.testbed.zookeeper import Ensemble, Security, ServerLocation
from tests.zookeeper.certificates import Authority
from tests.zookeeper.site import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

USER, PASSWORD, WRONG = "maglev", "correct-horse_battery", "wrong-staple"  # nobody's


class Guard:
    """The server and its clients' files; clients without a certificate use the port without TLS."""

    def __init__(self, directory: Path, ports: tuple[int, int, int, int]) -> None:
        self.directory = directory
        self.authority, self.stranger = (
            Authority(directory, "authority"),
            Authority(directory, "stranger"),
        )
        self.client = self.authority.issue("client")
        self.password, self.wrong = self.file("password", PASSWORD), self.file("wrong", WRONG)
        security = Security(
            {USER: PASSWORD}, self.authority.issue("server"), self.authority.certificate
        )
        self.ensemble = Ensemble(
            directory, [ServerLocation("127.0.0.1", *ports)], security=security
        )

    def file(self, name: str, content: str, mode: int = 0o600) -> Path:
        """Write a file of a flag."""
        path = self.directory / name
        path.write_text(f"{content}\n")
        path.chmod(mode)
        return path

    @property
    def tls(self) -> list[str]:
        """Connect by TLS with a certificate."""
        return [
            f"--zk-ca={self.authority.certificate}",
            f"--zk-cert={self.client}",
            f"--zk-key={self.client}",
        ]

    def auth(self, scheme: str = "digest", password: Path | None = None) -> str:
        """Be the cluster's user, or somebody who has another password."""
        return f"--zk-auth={scheme}:{USER}:{password or self.password}"

    @contextmanager
    def visitor(self, password: str | None = None) -> Iterator[KazooClient]:
        """A client of the test, without TLS, who knows that password or none."""
        zookeeper = KazooClient(
            self.ensemble.connect_string,
            timeout=DEADLINE_S,
            auth_data=[("digest", f"{USER}:{password}")] if password else None,
        )
        zookeeper.start(timeout=DEADLINE_S)
        yield zookeeper
        zookeeper.stop()
        zookeeper.close()
