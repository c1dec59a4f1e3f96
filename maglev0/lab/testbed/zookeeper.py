"""Real ZooKeeper servers from Debian's package, one or an ensemble, on loopback or on the lab's management network."""

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

JAR = Path(
    "/usr/share/java/zookeeper.jar"
)  # its manifest names the jars it needs, so a short class path does (0.25 s to start, not 0.8 s)
LOGGING_JAR = Path("/usr/share/java/slf4j-simple.jar")
# What that manifest forgets, of libnetty-java, which the package depends on: without these a server that is to speak TLS ends every connection.
TLS_JARS = (Path("/usr/share/java/netty-codec.jar"), Path("/usr/share/java/netty-resolver.jar"))
# A small heap and the first compiler tier start fastest; with its performance data on, the JVM leaves files under /tmp.
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
# There is no event for "the port answers"; asking costs the server a fraction of a millisecond.
ASK_INTERVAL_S = 0.02
ASK_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Times:
    """zoo.cfg's times: `tick_ms` is its unit; followers have `init_limit` ticks to join a leader and `sync_limit` to be heard of by it."""

    tick_ms: int = 200
    init_limit: int = 25
    sync_limit: int = 5


@dataclass(frozen=True)
class ServerLocation:
    """Where one server listens: an address of the namespace (None: of this one) and four ports."""

    host: str
    client_port: int = 2181
    peer_port: int = 2888
    election_port: int = 3888
    secure_port: int = 2281
    namespace: str | None = None


@dataclass(frozen=True)
class Security:
    """How a server knows its clients, and is known by them, beside digest, which all servers offer.

    `users` may log in by SASL, each with a password. With `keys`, the file of a certificate and its key, there is a port for TLS on which clients
    need a certificate of `trusted` where that is given. Files are PEM.
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
        trusted = (
            self.keys if self.trusted is None else self.trusted
        )  # Netty's factory wants one in any case
        return [
            *lines,
            f"secureClientPort={place.secure_port}",
            f"secureClientPortAddress={place.host}",
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",  # the one that speaks TLS
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
    """One server of an ensemble; made without starting it."""

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
        """Where clients reach it, as in a connection string."""
        return f"{self.place.host}:{self.place.client_port}"

    @property
    def secure_address(self) -> str:
        """Where clients reach it by TLS."""
        return f"{self.place.host}:{self.place.secure_port}"

    @property
    def process(self) -> Process:
        """The running server; raises LabError where it was never started."""
        if self._process is None:
            raise LabError(f"zookeeper server {self.number} was not started")
        return self._process

    def start(self) -> None:
        """Start it on what it has on disk; it serves once `wait_until_serving` returns."""
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
        """End it in order."""
        self.process.stop()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()

    def restart(self) -> None:
        """Stop it in order, start it again and wait until it serves."""
        self.stop()
        self.start()
        self.wait_until_serving()

    def close(self) -> None:
        """Make sure that it does not run, in whatever state it is."""
        if self._process is not None:
            self._process.kill()

    def freeze(self) -> None:
        """Stop the clock of the server: it stays connected and says nothing."""
        self.process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self.process.signal(signal.SIGCONT)

    def mode(self) -> str | None:
        """'standalone', 'leader' or 'follower' as it says itself; None while it serves nobody."""
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
        """Return once clients are served, by a leader or with one; raises LabError after `timeout_s` or when the server ends."""
        deadline_s = time.monotonic() + timeout_s
        while self.mode() is None:
            if self.process.ended:
                raise LabError(
                    f"zookeeper server {self.number} ended at its start, see {self.process.log}"
                )
            if time.monotonic() > deadline_s:
                raise LabError(
                    f"zookeeper server {self.number} does not serve after {timeout_s} s, see {self.process.log}"
                )
            time.sleep(ASK_INTERVAL_S)


class Ensemble:
    """One server standing alone, or three and more that elect a leader.

    As a context manager it starts all, waits until they serve, and ends them. `directory` holds their data and logs.
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
        """An ensemble on 127.0.0.1, on ports that are free now."""
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
        """Return once each server serves, as `ZooKeeperServer.wait_until_serving` has it."""
        for server in self.servers:
            server.wait_until_serving()

    def close(self) -> None:
        """End all servers, in whatever state they are; their files stay."""
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
        """The server that leads now, or stands alone; raises LabError while there is none."""
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
        "maxClientCnxns=0",  # tests connect more often from one address than the default of 60 allows
        "admin.enableServer=false",  # its fixed port 8080 would clash between servers
        "4lw.commands.whitelist=srvr",
        "preAllocSize=64",  # KiB, not 64 MiB, of a file system that may be memory
    ]


def _free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now, all held until all are known so that no two are the same."""
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


def missing() -> str | None:
    """What this machine lacks to run a server, with what mends it; None where nothing."""
    if shutil.which("java") is None:
        return "java is missing: apt install default-jre-headless"
    if not JAR.exists():
        return f"ZooKeeper is missing ({JAR}): apt install libzookeeper-java"
    return None
