"""Runs ZooKeeper servers from Debian's package on loopback or on the lab's management network."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from maglev0.lab.errors import LabError
from maglev0.lab.testbed import namespace
from maglev0.lab.testbed.process import Process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Its manifest names the jars it needs; the short class path cuts the start from 0.8 s to 0.25 s.
JAR = Path("/usr/share/java/zookeeper.jar")
LOGGING_JAR = Path("/usr/share/java/slf4j-simple.jar")
# Jars of libnetty-java that the manifest lacks: without them a server ends every TLS connection.
TLS_JARS = (Path("/usr/share/java/netty-codec.jar"), Path("/usr/share/java/netty-resolver.jar"))
# A small heap and the first compiler tier start fastest. Without -XX:-UsePerfData the JVM leaves
# files under /tmp.
JAVA_FLAGS = (
    "-Xmx128m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
)
LOG_FLAGS = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)
LOGIN = "jaas.conf"
SERVE_TIMEOUT_S = 20.0
# No event reports an open port; each poll costs the server a fraction of a millisecond.
ASK_INTERVAL_S = 0.02
ASK_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Times:
    """The times in zoo.cfg: `tick_ms` in milliseconds, both limits in ticks.

    A follower must join the leader within `init_limit` and stay in sync within `sync_limit`.
    """

    tick_ms: int = 200
    init_limit: int = 25
    sync_limit: int = 5


@dataclass(frozen=True)
class ServerLocation:
    """Where one server listens: address and four ports in a namespace (None: the current one)."""

    host: str
    client_port: int = 2181
    peer_port: int = 2888
    election_port: int = 3888
    secure_port: int = 2281
    namespace: str | None = None


@dataclass(frozen=True)
class Security:
    """How server and clients authenticate each other, besides digest, which all servers offer.

    `users` maps the names that may log in by SASL to their passwords. `keys` is the file of a
    certificate and its key; with it the server opens a port for TLS. On that port clients need a
    certificate signed by `trusted`, where it is given. All files are PEM.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    keys: Path | None = None
    trusted: Path | None = None

    def settings(self, place: ServerLocation) -> list[str]:
        """The lines for zoo.cfg."""
        lines = (
            ["authProvider.sasl=org.apache.zookeeper.server.auth.SASLAuthenticationProvider"]
            if self.users
            else []
        )
        if self.keys is None:
            return lines
        # Netty's factory requires a trust store in any case.
        trusted = self.keys if self.trusted is None else self.trusted
        return [
            *lines,
            f"secureClientPort={place.secure_port}",
            f"secureClientPortAddress={place.host}",
            # Only the Netty factory supports TLS.
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
            "authProvider.x509=org.apache.zookeeper.server.auth.X509AuthenticationProvider",
            f"ssl.keyStore.location={self.keys}",
            "ssl.keyStore.type=PEM",
            f"ssl.trustStore.location={trusted}",
            "ssl.trustStore.type=PEM",
            f"ssl.clientAuth={'none' if self.trusted is None else 'need'}",
        ]

    def login(self) -> str:
        """The text of the JAAS configuration."""
        users = " ".join(f'user_{name}="{password}"' for name, password in self.users.items())
        return (
            f"Server {{ org.apache.zookeeper.server.auth.DigestLoginModule required {users}; }};\n"
        )


OPEN = Security()


class ZooKeeperServer:
    """One server of an ensemble; a new one is not started."""

    def __init__(
        self, number: int, place: ServerLocation, directory: Path, security: Security = OPEN
    ) -> None:
        self.number = number
        self.place = place
        self.directory = directory
        self.security = security
        self._process: Process | None = None

    @property
    def address(self) -> str:
        """The client address, as in a connection string."""
        return f"{self.place.host}:{self.place.client_port}"

    @property
    def secure_address(self) -> str:
        """The client address for TLS."""
        return f"{self.place.host}:{self.place.secure_port}"

    @property
    def process(self) -> Process:
        """The server process; raises LabError before the first start."""
        if self._process is None:
            raise LabError(f"zookeeper server {self.number} was not started")
        return self._process

    def start(self) -> None:
        """Start the server with its data on disk; it serves once `wait_until_serving` returns."""
        flags = [f"-Djava.io.tmpdir={self.directory}"]
        if self.security.users:
            flags.append(f"-Djava.security.auth.login.config={self.directory / LOGIN}")
        jars = [JAR, LOGGING_JAR, *(() if self.security.keys is None else TLS_JARS)]
        java = ["java", *JAVA_FLAGS, *LOG_FLAGS, *flags, "-cp", ":".join(map(str, jars))]
        command = [
            *java,
            "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(self.directory / "zoo.cfg"),
        ]
        self._process = Process(
            f"zookeeper server {self.number}",
            command,
            self.directory / "server.log",
            self.place.namespace,
        )

    def stop(self) -> None:
        """Stop the server by SIGTERM."""
        self.process.stop()

    def kill(self) -> None:
        """Kill the server, as a power cut would."""
        self.process.kill()

    def restart(self) -> None:
        """Stop the server by SIGTERM, start it again and wait until it serves."""
        self.stop()
        self.start()
        self.wait_until_serving()

    def close(self) -> None:
        """Kill the server in any state; one that was never started is accepted."""
        if self._process is not None:
            self._process.kill()

    def freeze(self) -> None:
        """Suspend the server by SIGSTOP: connections stay open and get no answer."""
        self.process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume a frozen server."""
        self.process.signal(signal.SIGCONT)

    def mode(self) -> str | None:
        """The server's mode: 'standalone', 'leader' or 'follower'; None while it does not serve."""
        try:
            with namespace.inside(self.place.namespace):
                connection = socket.create_connection(
                    (self.place.host, self.place.client_port), ASK_TIMEOUT_S
                )
            with connection, connection.makefile("rwb") as stream:
                stream.write(b"srvr")
                stream.flush()
                answer = stream.read().decode()
        except OSError:
            return None
        return next(
            (
                line.removeprefix("Mode: ")
                for line in answer.splitlines()
                if line.startswith("Mode: ")
            ),
            None,
        )

    def wait_until_serving(self, timeout_s: float = SERVE_TIMEOUT_S) -> None:
        """Return once the server serves clients.

        Raises LabError after `timeout_s` or when the server ends.
        """
        deadline_s = time.monotonic() + timeout_s
        while self.mode() is None:
            if self.process.ended:
                raise LabError(
                    f"zookeeper server {self.number} ended during its start, see {self.process.log}"
                )
            if time.monotonic() > deadline_s:
                raise LabError(
                    f"zookeeper server {self.number} does not serve after {timeout_s} s,"
                    f" see {self.process.log}"
                )
            time.sleep(ASK_INTERVAL_S)


class Ensemble:
    """One standalone server, or three and more that elect a leader.

    As a context manager it starts all servers, waits until they serve, and kills them at exit.
    `directory` holds their data and logs.
    """

    def __init__(
        self,
        directory: Path,
        places: Sequence[ServerLocation],
        times: Times = Times(),
        security: Security = OPEN,
    ) -> None:
        self.times = times
        self.servers = tuple(
            ZooKeeperServer(number, place, directory / f"zookeeper-{number}", security)
            for number, place in enumerate(places, start=1)
        )

    @classmethod
    def on_loopback(
        cls, directory: Path, size: int = 1, times: Times = Times(), security: Security = OPEN
    ) -> Self:
        """An ensemble on free ports of 127.0.0.1."""
        ports = iter(_free_ports(4 * size))
        return cls(
            directory,
            [
                ServerLocation("127.0.0.1", next(ports), next(ports), next(ports), next(ports))
                for _ in range(size)
            ],
            times,
            security,
        )

    @property
    def connect_string(self) -> str:
        """Every server's client address, as `--zk` takes it."""
        return ",".join(server.address for server in self.servers)

    @property
    def secure_connect_string(self) -> str:
        """Every server's client address for TLS, as `--zk` takes it."""
        return ",".join(server.secure_address for server in self.servers)

    def start(self) -> None:
        """Start all servers and wait until they serve."""
        for server in self.servers:
            self._write_configuration(server)
            server.start()
        self.wait_until_serving()

    def wait_until_serving(self) -> None:
        """Return once each server serves; errors as in `ZooKeeperServer.wait_until_serving`."""
        for server in self.servers:
            server.wait_until_serving()

    def close(self) -> None:
        """Kill all servers in any state; their files stay."""
        for server in self.servers:
            server.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def leader(self) -> ZooKeeperServer:
        """The current leader or the standalone server; raises LabError while there is none."""
        for server in self.servers:
            if server.mode() in {"leader", "standalone"}:
                return server
        raise LabError("no zookeeper server leads")

    def _write_configuration(self, server: ZooKeeperServer) -> None:
        server.directory.mkdir(parents=True, exist_ok=True)
        (server.directory / "myid").write_text(f"{server.number}\n")
        lines = [
            *_settings(server, self.times),
            *server.security.settings(server.place),
            *self._peers(),
        ]
        (server.directory / "zoo.cfg").write_text("\n".join(lines) + "\n")
        (server.directory / LOGIN).write_text(server.security.login())

    def _peers(self) -> list[str]:
        if len(self.servers) == 1:
            return []
        places = [(server.number, server.place) for server in self.servers]
        return [
            f"server.{number}={place.host}:{place.peer_port}:{place.election_port}"
            for number, place in places
        ]


def _settings(server: ZooKeeperServer, times: Times) -> list[str]:
    return [
        f"tickTime={times.tick_ms}",
        f"initLimit={times.init_limit}",
        f"syncLimit={times.sync_limit}",
        f"dataDir={server.directory}",
        f"clientPort={server.place.client_port}",
        f"clientPortAddress={server.place.host}",
        "maxClientCnxns=0",  # tests exceed the default of 60 connections from one address
        "admin.enableServer=false",  # all servers would bind its fixed port 8080
        "4lw.commands.whitelist=srvr",
        "preAllocSize=64",  # KiB, not 64 MiB, of a file system that may be memory
    ]


def _free_ports(count: int) -> list[int]:
    """Free ports of 127.0.0.1; all are held until all are known, so that they differ."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


def missing() -> str | None:
    """What this machine lacks to run a server, and how to fix it; None where nothing is missing."""
    if shutil.which("java") is None:
        return "java is missing: apt install default-jre-headless"
    if not JAR.exists():
        return f"ZooKeeper is missing ({JAR}): apt install libzookeeper-java"
    return None
