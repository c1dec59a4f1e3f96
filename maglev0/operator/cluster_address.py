"""Says which cluster an operator's command asks, and opens the short ZooKeeper session for it.

The session of a command that only reads leaves nothing in ZooKeeper. It ends with the command.
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
  --config=<FILE>         the daemon's configuration file (left out: /etc/maglev0/maglev0.toml, if
                          it exists)
  --zk-auth=<AUTH>        digest:USER:PASSWORD-FILE or sasl:USER:PASSWORD-FILE
  --zk-ca=<FILE>          PEM file of the CA that signed the certificates of ZooKeeper's servers;
                          turns TLS on
  --zk-cert=<FILE>        PEM file of a certificate, if the servers ask for one
  --zk-key=<FILE>         PEM file of its key; may be the same file
  --json                  JSON instead of text
"""
"""Lines for the help of a command. Values come from flags, then the file, then the defaults."""

FLAGS = ("--zk", "--cluster-ip", "--zk-auth", "--zk-ca", "--zk-cert", "--zk-key")
PATIENCE_S = 5.0  # for a session; an election in a well-set ensemble takes less
SESSION_TIMEOUT_S = 4.0  # a command gives up on an answer that takes longer


@dataclass(frozen=True)
class ClusterAddress:
    """The ZooKeeper to ask, how to log in there, and the VIPs to ask about."""

    zk: ZooKeeperAddress
    access: ZooKeeperAccess
    vips: tuple[IPv4Address, ...]

    def paths(self, vip: IPv4Address) -> Paths:
        """The znode paths of a VIP's cluster."""
        return Paths(f"{self.zk.chroot}/maglev0/{vip}")


def read(arguments: Mapping[str, Any]) -> ClusterAddress:
    """Read the address from a command line parsed by `OPTIONS`, the file and the defaults.

    Raises ConfigError for a wrong value.
    """
    path = configfile.default_path() if arguments["--config"] is None else arguments["--config"]
    written = {} if path is None else configfile.file_values(path)
    values = {
        flag: written.get(flag) if arguments[flag] is None else arguments[flag] for flag in FLAGS
    }
    # The daemon's own reader gives flags the same meaning and the same errors here as there.
    config = command_line.read(
        [f"{flag}={value}" for flag, value in values.items() if value is not None]
    )
    return ClusterAddress(config.zk, config.access, config.vips)


def vip(address: ClusterAddress) -> IPv4Address:
    """The VIP of a command that handles only one; ConfigError if the address names several."""
    if len(address.vips) > 1:
        raise ConfigError(
            f"this command handles one VIP, and {len(address.vips)} are configured"
            f" ({', '.join(map(str, address.vips))}): choose one with --cluster-ip"
        )
    return address.vips[0]


@asynccontextmanager
async def session(address: ClusterAddress) -> AsyncIterator[Session]:
    """Open a session, wait until it is connected, and close it at the end.

    Raises ZooKeeperError if no session comes up within `PATIENCE_S`, or if the session is lost
    while the command uses it.
    """
    # kazoo logs each failed attempt; the error says once what is wrong.
    logging.getLogger("maglev0.kazoo").setLevel(logging.CRITICAL)
    opened = Session(address.zk, SESSION_TIMEOUT_S, lambda _path: None, access=address.access)
    opened.start()
    try:
        await _wait_connected(opened, address)
        yield opened
    except Disconnected as error:
        reason = await diagnosis.why_no_session(address.zk, opened.tls)
        raise ZooKeeperError(f"lost the connection to ZooKeeper: {reason}") from error
    finally:
        await opened.close()


async def _wait_connected(opened: Session, address: ClusterAddress) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await opened.until(SessionState.CONNECTED)
    except TimeoutError as error:
        reason = await diagnosis.why_no_session(address.zk, opened.tls)
        raise ZooKeeperError(f"no ZooKeeper session within {PATIENCE_S:g} s: {reason}") from error


async def cluster(zookeeper: ZooKeeper, address: ClusterAddress, which: IPv4Address) -> Paths:
    """The znode paths of a VIP's cluster, which exists.

    Raises ZooKeeperError that says what is missing: the chroot, every cluster, or this one.
    """
    paths = address.paths(which)
    if await zookeeper.get(paths.settings) is None:
        raise ZooKeeperError(await _what_is_missing(zookeeper, address, which))
    return paths


async def _what_is_missing(
    zookeeper: ZooKeeper, address: ClusterAddress, which: IPv4Address
) -> str:
    zk = address.zk
    if zk.chroot and await zookeeper.get(zk.chroot) is None:
        return f"--zk={zk}: {zk.chroot} does not exist; correct it, or start a daemon with it"
    listed = await zookeeper.children(f"{zk.chroot}/maglev0")
    known = [] if listed is None else sorted(filter(_is_address, listed[0]), key=IPv4Address)
    clusters = (
        f"clusters there: {', '.join(known[:8])}{' and more' if len(known) > 8 else ''}"
        if known
        else "there is no cluster there"
    )
    return (
        f"no cluster of --cluster-ip={which} at {zk}; {clusters};"
        " correct the flags, or start a daemon with them"
    )


def _is_address(name: str) -> bool:
    try:
        IPv4Address(name)
    except AddressValueError:
        return False
    return True
