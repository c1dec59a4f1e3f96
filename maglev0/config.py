"""The command line's values, checked once into one frozen value.

Pure: imports no I/O. Every error names the flag, the value and what is allowed.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from maglev0.errors import ConfigError
from maglev0.service import HashFamily, HashMode, Service, Xdp
from maglev0.settings import MAX_TOTAL_NODES, SEED_LIMIT, Wishes, parse_cluster_mac
from maglev0.view import MAX_SESSION_TIMEOUT_S, MAX_WEIGHT

DEFAULT_ZK_PORT = 2181
MIN_SESSION_TIMEOUT_S = 0.1
MAX_DRAIN_TIMEOUT_S = 86400.0
AUTO = "auto"

_Value = TypeVar("_Value")
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?")
_BRACKETED_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]+)\]")
_CHROOT = re.compile(r"(/[^/\ufff0-\U0010ffff]+)*")  # of what is printable, PathUtils.validatePath of ZooKeeper refuses these too
_INTERFACE = re.compile(r"[^/:*\\\s\"]+")
_INTERFACE_BYTES = 15  # IFNAMSIZ less the final zero


class ZooKeeperLoss(enum.StrEnum):
    """What a node does that no ZooKeeper server answers: let its lease end, or go on under the last view at the risk of two answers."""

    RELEASE = "release"
    HOLD = "hold"


@dataclass(frozen=True)
class ZooKeeperAddress:
    """`hosts` is the csv of host:port pairs, `chroot` the path that all of ours lies under ("" or "/path")."""

    hosts: str
    chroot: str

    def __str__(self) -> str:
        return self.hosts + self.chroot


@dataclass(frozen=True)
class Config:
    """What one daemon was asked to do. `None` is a flag left out; `dataplane` is `None` for auto."""

    my_id: int
    vip: IPv4Address
    zk: ZooKeeperAddress
    interface: str | None
    dataplane: HashFamily | None
    total_nodes: int | None
    hash_mode: HashMode | None
    hash_seed: int | None
    cluster_mac: str | None
    session_timeout_s: float
    weight: int
    drain_timeout_s: float
    xdp: Xdp
    zk_loss: ZooKeeperLoss
    dry_run: bool
    verbose: bool

    def wishes(self, families: tuple[HashFamily, ...], standing: Service | None = None) -> Wishes:
        """What these flags ask of the cluster's settings, on a machine that can run those hash families.

        `standing` is what a rule set up here by hand carries out already: it speaks for the flags that are left out.
        """
        flags = Wishes(self.total_nodes, self.hash_mode, self.hash_seed, self.cluster_mac, families)
        if standing is None:
            return flags
        return Wishes(
            total_nodes=standing.total_nodes if flags.total_nodes is None else flags.total_nodes,
            hash_mode=flags.hash_mode or standing.hash_mode,
            hash_seed=standing.hash_seed if flags.hash_seed is None else flags.hash_seed,
            cluster_mac=flags.cluster_mac or standing.cluster_mac,
            families=families,
        )


def parse(arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> Config:
    """Check a parsed command line. `arguments` holds `None` for flags left out, `defaults` the values that the help text names for them.

    The two are apart because a flag left out adopts the cluster's setting, while the same value given may contradict it.
    Raises ConfigError for the first flag that is wrong.
    """

    def given(flag: str, check: Callable[[str], _Value]) -> _Value | None:
        return None if arguments[flag] is None else _checked(flag, arguments[flag], check)

    def value(flag: str, check: Callable[[str], _Value]) -> _Value:
        return _checked(flag, defaults[flag] if arguments[flag] is None else arguments[flag], check)

    dataplane = value("--dataplane", _dataplane)
    most = max(MAX_TOTAL_NODES.values()) if dataplane is None else MAX_TOTAL_NODES[dataplane]
    total_nodes = given("--total-nodes", _number_within(1, most, "" if dataplane is None else f" for {dataplane}"))
    return Config(
        my_id=value("--my-id", _number_within(1, total_nodes or most, "" if total_nodes is None else " (--total-nodes)")),
        vip=value("--cluster-ip", _vip),
        zk=value("--zk", parse_zk),
        interface=given("--interface", _interface),
        dataplane=dataplane,
        total_nodes=total_nodes,
        hash_mode=given("--hash-mode", _hash_mode),
        hash_seed=given("--hash-seed", _seed),
        cluster_mac=given("--cluster-mac", parse_cluster_mac),
        session_timeout_s=value("--session-timeout", _seconds_within(MIN_SESSION_TIMEOUT_S, MAX_SESSION_TIMEOUT_S, "4 or 1.5")),
        weight=value("--weight", _number_within(0, MAX_WEIGHT, "")),
        drain_timeout_s=value("--drain-timeout", _seconds_within(0, MAX_DRAIN_TIMEOUT_S, "30 or 0.5")),
        xdp=value("--xdp", _xdp),
        zk_loss=value("--zk-loss", _zk_loss),
        dry_run=bool(arguments["--dry-run"]),
        verbose=bool(arguments["--verbose"]),
    )


def _checked(flag: str, text: str, check: Callable[[str], _Value]) -> _Value:
    try:
        return check(text)
    except ValueError as error:
        raise ConfigError(f"{flag}={printable(text)}: {error}") from error


def printable(text: str) -> str:
    """Return `text` as it may stand in a message of one line."""
    return text if text.isprintable() else ascii(text)


def _whole_number(text: str) -> int:
    # int() alone would take "1_000", " 7 " and digits of other scripts, and refuse thousands of digits with a text of its own.
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise ValueError("not a whole number")
    return int(text)


def _number_within(least: int, most: int, why: str) -> Callable[[str], int]:
    def check(text: str) -> int:
        allowed = f"allowed are the whole numbers from {least} to {most}{why}"
        try:
            number = _whole_number(text)
        except ValueError as error:
            raise ValueError(allowed) from error
        if not least <= number <= most:
            raise ValueError(allowed)
        return number

    return check


def _seed(text: str) -> int:
    allowed = f"allowed are the whole numbers from 0 to {SEED_LIMIT - 1}, also in hexadecimal as 0x1234"
    if not re.fullmatch(r"[0-9]{1,10}|0[xX][0-9a-fA-F]{1,8}", text):
        raise ValueError(allowed)
    seed = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    if seed >= SEED_LIMIT:
        raise ValueError(allowed)
    return seed


def _vip(text: str) -> IPv4Address:
    try:
        address = IPv4Address(text)
    except ValueError as error:
        raise ValueError("allowed is one IPv4 address, as 198.51.100.1") from error
    if address.is_multicast or address.is_loopback or address.is_unspecified or address.is_link_local or int(address) == (1 << 32) - 1:
        raise ValueError("allowed is a unicast IPv4 address that is neither loopback nor link-local")
    return address


def _interface(text: str) -> str:
    # dev_valid_name(), net/core/dev.c; quote, star and backslash have a meaning in nft rules.
    if not _INTERFACE.fullmatch(text) or text in (".", "..") or not text.isprintable() or len(text.encode()) > _INTERFACE_BYTES:
        raise ValueError(
            f"allowed is the name of a network interface: 1 to {_INTERFACE_BYTES} bytes without slash, colon, quote, star, backslash or space"
        )
    if text == "lo":
        raise ValueError("allowed is an interface that other machines reach, not the loopback")
    return text


def _dataplane(text: str) -> HashFamily | None:
    if text == AUTO:
        return None
    return _one_of(HashFamily, text, (AUTO, *HashFamily))


def _hash_mode(text: str) -> HashMode:
    return _one_of(HashMode, text, tuple(HashMode))


def _xdp(text: str) -> Xdp:
    return _one_of(Xdp, text, tuple(Xdp))


def _zk_loss(text: str) -> ZooKeeperLoss:
    return _one_of(ZooKeeperLoss, text, tuple(ZooKeeperLoss))


_Choice = TypeVar("_Choice", HashFamily, HashMode, Xdp, ZooKeeperLoss)


def _one_of(kind: type[_Choice], text: str, allowed: tuple[str, ...]) -> _Choice:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"allowed are {', '.join(allowed[:-1])} and {allowed[-1]}") from error


def _seconds_within(least: float, most: float, example: str) -> Callable[[str], float]:
    allowed = f"allowed are {least:g} to {most:g} seconds, as {example}"

    def check(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
            raise ValueError(allowed)
        seconds = float(text)
        if not least <= seconds <= most:
            raise ValueError(allowed)
        return seconds

    return check


def parse_zk(text: str) -> ZooKeeperAddress:
    """Read a ZooKeeper connection string: host[:port],…[/chroot]; ports left out are 2181. ValueError says what is allowed."""
    hosts, slash, path = text.partition("/")
    chroot = (slash + path).rstrip("/")
    if not _CHROOT.fullmatch(chroot) or not chroot.isprintable() or {".", ".."} & set(chroot.split("/")):
        raise ValueError("the chroot behind the hosts must be a printable path as /production/web, without empty parts, '.' or '..'")
    if chroot == "/zookeeper" or chroot.startswith("/zookeeper/"):
        raise ValueError("the chroot /zookeeper is ZooKeeper's own")
    return ZooKeeperAddress(",".join(_host_and_port(part.strip()) for part in hosts.split(",")), chroot)


def _host_and_port(text: str) -> str:
    host, colon, port = text.rpartition(":") if re.search(r":[^\]]*\Z", text) else (text, "", "")
    if not _is_host(host):
        raise ValueError(f"{text!r} is no host[:port]; allowed is a list as zk1:2181,zk2:2181,[2001:db8::1]:2181/chroot")
    if not colon:
        return f"{host}:{DEFAULT_ZK_PORT}"
    try:
        number = _number_within(1, 65535, "")(port)
    except ValueError as error:
        raise ValueError(f"port {port!r} of {host}: {error}") from error
    return f"{host}:{number}"


def _is_host(text: str) -> bool:
    if bracketed := _BRACKETED_IPV6.fullmatch(text):
        return _is_address(IPv6Address, bracketed[1])
    # No top-level domain is all digits (RFC 3696, 2), and resolvers take such a name for an address.
    if text.removesuffix(".").rpartition(".")[2].isdecimal():
        return _is_address(IPv4Address, text)
    return _HOST.fullmatch(text) is not None


def _is_address(kind: type[IPv4Address | IPv6Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True
