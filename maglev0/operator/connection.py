"""Which cluster an operator's command is about, and the short ZooKeeper session in which it asks.

A session for reading leaves nothing behind, and ends with the command.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from maglev0.config import command_line
from maglev0.config import file as configfile
from maglev0.config.configuration import ZooKeeperAddress
from maglev0.config.zookeeper_access import ZooKeeperAccess
from maglev0.coordination import diagnosis
from maglev0.coordination.session import Session, SessionState
from maglev0.errors import ConfigError, ZooKeeperError
from maglev0.protocol.paths import Paths
from maglev0.protocol.ports.zookeeper import Disconnected, ZooKeeper

OPTIONS = """\
  --zk=<ZK>               ZooKeeper connection string, csv, with an optional /chroot at its end
  --cluster-ip=<IP>       the VIP, or several as csv
  --config=<FILE>         the daemon's configuration file; left out: /etc/maglev0/maglev0.toml, if it is there
  --zk-auth=<AUTH>        digest:USER:PASSWORD-FILE or sasl:USER:PASSWORD-FILE
  --zk-ca=<FILE>          PEM file of the CA that vouches for ZooKeeper's servers; connects by TLS
  --zk-cert=<FILE>        PEM file of a certificate, where the servers ask for one
  --zk-key=<FILE>         PEM file of its key; may be the same file
  --json                  JSON instead of text
"""
"""Lines for a command's help. What flags leave out the configuration file says, and what that leaves out is the daemon's default."""

FLAGS = ("--zk", "--cluster-ip", "--zk-auth", "--zk-ca", "--zk-cert", "--zk-key")
PATIENCE_S = 5.0  # for a session; an election in a well-set ensemble takes less
SESSION_TIMEOUT_S = 4.0  # an answer that takes longer counts as none


@dataclass(frozen=True)
class ClusterAddress:
    """Whom to ask, and about which VIPs."""

    zk: ZooKeeperAddress
    access: ZooKeeperAccess
    vips: tuple[IPv4Address, ...]

    def paths(self, vip: IPv4Address) -> Paths:
        """Where the cluster of a VIP lies."""
        return Paths(f"{self.zk.chroot}/maglev0/{vip}")


def read(arguments: Mapping[str, Any]) -> ClusterAddress:
    """What a command line that was parsed by `OPTIONS` says, or the configuration file, or the defaults; ConfigError where that is wrong."""
    path = configfile.default_path() if arguments["--config"] is None else arguments["--config"]
    written = {} if path is None else configfile.file_values(path)
    values = {
        flag: written.get(flag) if arguments[flag] is None else arguments[flag] for flag in FLAGS
    }
    # By the daemon's own command line, so that the same words mean the same, and are refused alike.
    config = command_line.read(
        [f"{flag}={value}" for flag, value in values.items() if value is not None]
    )
    return ClusterAddress(config.zk, config.access, config.vips)


def vip(connection: ClusterAddress) -> IPv4Address:
    """The one VIP, for a command that is about one; ConfigError where there are several."""
    if len(connection.vips) > 1:
        raise ConfigError(
            f"this is about one VIP, and there are several ({', '.join(map(str, connection.vips))}): choose one by --cluster-ip"
        )
    return connection.vips[0]


@asynccontextmanager
async def session(connection: ClusterAddress) -> AsyncIterator[Session]:
    """A connected session, closed at the end. Raises ZooKeeperError where there is none in time, or it goes away while it is used."""
    logging.getLogger("maglev0.kazoo").setLevel(
        logging.CRITICAL
    )  # it reports each failed attempt; the error says once what is wrong
    made = Session(connection.zk, SESSION_TIMEOUT_S, lambda _path: None, access=connection.access)
    made.start()
    try:
        await _connected(made, connection)
        yield made
    except Disconnected as error:
        reason = await diagnosis.why_no_session(connection.zk, made.tls)
        raise ZooKeeperError(f"ZooKeeper went away while it was being asked: {reason}") from error
    finally:
        await made.close()


async def _connected(made: Session, connection: ClusterAddress) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await made.until(SessionState.CONNECTED)
    except TimeoutError as error:
        reason = await diagnosis.why_no_session(connection.zk, made.tls)
        raise ZooKeeperError(f"no ZooKeeper session within {PATIENCE_S:g} s: {reason}") from error


async def cluster(zookeeper: ZooKeeper, connection: ClusterAddress, which: IPv4Address) -> Paths:
    """Where the cluster of a VIP lies. Raises ZooKeeperError that says what is missing there: the chroot, every cluster, or this one."""
    paths = connection.paths(which)
    if await zookeeper.get(paths.settings) is None:
        raise ZooKeeperError(await _what_is_missing(zookeeper, connection, which))
    return paths


async def _what_is_missing(
    zookeeper: ZooKeeper, connection: ClusterAddress, which: IPv4Address
) -> str:
    zk = connection.zk
    if zk.chroot and await zookeeper.get(zk.chroot) is None:
        return f"--zk={zk}: there is no {zk.chroot}; correct it, or start a daemon with it"
    listed = await zookeeper.children(f"{zk.chroot}/maglev0")
    known = [] if listed is None else sorted(filter(_is_address, listed[0]), key=IPv4Address)
    there = (
        f"there are {', '.join(known[:8])}{' and more' if len(known) > 8 else ''}"
        if known
        else "there is none at all"
    )
    return f"no cluster of --cluster-ip={which} at {zk}, {there}; correct them, or start a daemon with them"


def _is_address(name: str) -> bool:
    try:
        IPv4Address(name)
    except AddressValueError:
        return False
    return True
