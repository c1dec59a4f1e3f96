"""The values of all flags, checked once into one frozen `Config`.

Pure: imports no I/O. Every error names the flag, the value and what is allowed.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple, TypeVar

from maglev0.config.arguments import SECRETS
from maglev0.config.flag_values import (
    number_within,
    one_of,
    parse_interface,
    parse_listener,
    parse_program,
    parse_seed,
    parse_vips,
    seconds_within,
)
from maglev0.config.health_checks import (
    MAX_CHECKS,
    CheckTiming,
    HealthCheck,
    parse_check,
    parse_timing,
)
from maglev0.config.zookeeper_access import ZooKeeperAccess, parse_auth, parse_file
from maglev0.core.service import HashFamily, HashMode, Service, Xdp
from maglev0.core.settings import MAX_TOTAL_NODES, Wishes, parse_cluster_mac
from maglev0.core.text import printable
from maglev0.core.view import MAX_SESSION_TIMEOUT_S, MAX_WEIGHT
from maglev0.errors import ConfigError

DEFAULT_ZK_PORT = 2181
MIN_SESSION_TIMEOUT_S = 0.1
MAX_DRAIN_TIMEOUT_S = 86400.0
AUTO = "auto"

_Value = TypeVar("_Value")
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)
_BRACKETED_IPV6 = re.compile(r"\[([0-9A-Fa-f:.]+)\]")
# Of the printable characters, PathUtils.validatePath of ZooKeeper refuses these too.
_CHROOT = re.compile(r"(/[^/\ufff0-\U0010ffff]+)*")


class ZooKeeperLoss(enum.StrEnum):
    """What a node does while no ZooKeeper server answers.

    It lets its lease expire, or goes on with the last view at the risk that two nodes answer.
    """

    RELEASE = "release"
    HOLD = "hold"


@dataclass(frozen=True)
class ZooKeeperAddress:
    """`hosts` is a csv of host:port, `chroot` the path above all our znodes ("" or "/path")."""

    hosts: str
    chroot: str

    def __str__(self) -> str:
        return self.hosts + self.chroot


@dataclass(frozen=True)
class Config:
    """The configuration of a daemon. `None` is a flag left out; `dataplane` is `None` for auto."""

    my_id: int
    vips: tuple[IPv4Address, ...]
    zk: ZooKeeperAddress
    access: ZooKeeperAccess
    interface: str | None
    dataplane: HashFamily | None
    total_nodes: int | None
    hash_mode: HashMode | None
    hash_seed: int | None = field(repr=False)  # a secret
    cluster_mac: str | None
    session_timeout_s: float
    weight: int
    drain_timeout_s: float
    xdp: Xdp
    zk_loss: ZooKeeperLoss
    checks: tuple[HealthCheck, ...]
    check_timing: CheckTiming
    notify: str | None
    metrics: tuple[str, int] | None
    dry_run: bool
    verbose: bool

    def wishes(self, families: tuple[HashFamily, ...], standing: Service | None = None) -> Wishes:
        """What these flags ask of the cluster's settings.

        `families` are the hash families that this machine can run. `standing` is the service of a
        rule that an operator has set up here by hand; it fills in flags that are left out.
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


# Fields whose names differ from their flags.
_RENAMED = {
    "vips": "--cluster-ip",
    "checks": "--check",
    "session_timeout_s": "--session-timeout",
    "drain_timeout_s": "--drain-timeout",
}


def _flag(name: str) -> str:
    return _RENAMED.get(name, "--" + name.replace("_", "-"))


_OF_ACCESS = ("--zk-auth", "--zk-ca", "--zk-cert", "--zk-key")
FLAGS = frozenset({_flag(each.name) for each in fields(Config)} - {"--access"}) | {*_OF_ACCESS}
SWITCHES = frozenset({"--dry-run", "--verbose"})
REPEATABLE = frozenset({"--check"})
# Flags that a running daemon applies when its file has changed.
RELOADABLE = frozenset(
    {
        "--cluster-ip",
        "--weight",
        "--drain-timeout",
        "--check",
        "--check-timing",
        "--notify",
        "--metrics",
        "--verbose",
    }
)


def changes(running: Config, wanted: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the flags that differ: those a running daemon can apply, and those for a restart."""
    before, after = _by_flag(running), _by_flag(wanted)
    differ = [flag for flag in before if before[flag] != after[flag]]
    return tuple(flag for flag in differ if flag in RELOADABLE), tuple(
        flag for flag in differ if flag not in RELOADABLE
    )


def taken_over(running: Config, wanted: Config) -> Config:
    """The running configuration with the values of `wanted` that need no restart."""
    names = [each.name for each in fields(Config) if _flag(each.name) in RELOADABLE]
    return replace(running, **{name: getattr(wanted, name) for name in names})


def _by_flag(config: Config) -> dict[str, object]:
    values = {_flag(each.name): getattr(config, each.name) for each in fields(config)}
    access = values.pop("--access")
    values |= zip(
        _OF_ACCESS,
        ((access.scheme, access.user, access.password_file), access.ca, access.cert, access.key),
        strict=True,
    )
    return values | {"--cluster-ip": frozenset(config.vips)}  # the order has no meaning


class FlagFault(NamedTuple):
    """A value that is refused, and why.

    `number` counts from 0 where the flag may be given several times.
    """

    flag: str
    number: int
    text: str
    why: str

    def __str__(self) -> str:
        return f"{self.flag}={self.shown}: {self.why}"

    @property
    def shown(self) -> str:
        """The value as an error may print it.

        Of a secret only the scheme is shown: the mistake may be one letter in it, or a password
        in place of the name of its file.
        """
        if self.flag in SECRETS or (self.flag == "--check" and "@" in self.text):
            kind = re.match(r"(digest|sasl|https?):", self.text)
            return f"{kind[0]}…" if kind else "…"
        return printable(self.text)


class FlagsError(ConfigError):
    """Flags are wrong; `faults` holds all faults, the text is that of the first."""

    def __init__(self, faults: list[FlagFault]) -> None:
        super().__init__(str(faults[0]))
        self.faults = tuple(faults)


class _Flags:
    """The values given, and the help text's defaults for flags left out, each checked once.

    `faults` collects what is wrong.
    """

    def __init__(self, arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._defaults = defaults
        self.faults: list[FlagFault] = []

    def given(
        self, flag: str, check: Callable[[str], _Value], number: int = 0, text: str | None = None
    ) -> _Value | None:
        value = self._arguments[flag] if text is None else text
        try:
            return None if value is None else check(value)
        except ValueError as error:
            self.faults.append(FlagFault(flag, number, value, str(error)))
            return None

    def value(self, flag: str, check: Callable[[str], _Value]) -> _Value:
        found = self.given(flag, check)
        return check(self._defaults[flag]) if found is None else found

    def every(self, flag: str, check: Callable[[str], _Value]) -> tuple[_Value, ...]:
        found = [
            self.given(flag, check, number, text)
            for number, text in enumerate(self._arguments[flag])
        ]
        return tuple(value for value in found if value is not None)


def parse(arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> Config:
    """Check a parsed command line.

    `arguments` holds `None` for flags left out, `defaults` the help text's values for them. The two
    are separate because a flag left out adopts the cluster's setting, while the same value, given,
    may contradict it. Raises FlagsError, which names every flag that is wrong.
    """
    flags = _Flags(arguments, defaults)
    config = _config(flags, arguments)
    if flags.faults:
        raise FlagsError(flags.faults)
    return config


def _config(flags: _Flags, arguments: Mapping[str, Any]) -> Config:
    """The configuration; a flag that is wrong counts as left out."""
    value, given = flags.value, flags.given
    # The range of --my-id depends on --total-nodes, whose range depends on --dataplane.
    dataplane = value("--dataplane", _dataplane)
    most = max(MAX_TOTAL_NODES.values()) if dataplane is None else MAX_TOTAL_NODES[dataplane]
    total_nodes = given(
        "--total-nodes", number_within(1, most, "" if dataplane is None else f" for {dataplane}")
    )
    return Config(
        my_id=value(
            "--my-id",
            number_within(
                1, total_nodes or most, "" if total_nodes is None else " (--total-nodes)"
            ),
        ),
        vips=value("--cluster-ip", parse_vips),
        zk=value("--zk", parse_zk),
        access=_access(flags, arguments),
        interface=given("--interface", parse_interface),
        dataplane=dataplane,
        total_nodes=total_nodes,
        hash_mode=given("--hash-mode", one_of(HashMode)),
        hash_seed=given("--hash-seed", parse_seed),
        cluster_mac=given("--cluster-mac", parse_cluster_mac),
        session_timeout_s=value(
            "--session-timeout",
            seconds_within(MIN_SESSION_TIMEOUT_S, MAX_SESSION_TIMEOUT_S, "4 or 1.5"),
        ),
        weight=value("--weight", number_within(0, MAX_WEIGHT)),
        drain_timeout_s=value(
            "--drain-timeout", seconds_within(0, MAX_DRAIN_TIMEOUT_S, "30 or 0.5")
        ),
        xdp=value("--xdp", one_of(Xdp)),
        zk_loss=value("--zk-loss", one_of(ZooKeeperLoss)),
        checks=_checks(flags, arguments),
        check_timing=value("--check-timing", parse_timing),
        notify=given("--notify", parse_program),
        metrics=given("--metrics", parse_listener),
        dry_run=bool(arguments["--dry-run"]),
        verbose=bool(arguments["--verbose"]),
    )


def _access(flags: _Flags, arguments: Mapping[str, Any]) -> ZooKeeperAccess:
    faults = len(flags.faults)
    auth = flags.given("--zk-auth", parse_auth)
    ca, cert, key = (flags.given(flag, parse_file) for flag in ("--zk-ca", "--zk-cert", "--zk-key"))
    if len(flags.faults) > faults:
        return ZooKeeperAccess()
    try:
        return ZooKeeperAccess.checked(auth, ca, cert, key)
    except ValueError as error:
        flag = str(error).partition(" ")[0]  # the text begins with the flag that lacks another
        flags.faults.append(FlagFault(flag, 0, arguments[flag], str(error)))
        return ZooKeeperAccess()


def _checks(flags: _Flags, arguments: Mapping[str, Any]) -> tuple[HealthCheck, ...]:
    texts = arguments["--check"]
    for number, text in enumerate(texts):
        if text in texts[:number]:
            flags.faults.append(
                FlagFault(
                    "--check", number, text, "given twice; each health check must be different"
                )
            )
    if len(texts) > MAX_CHECKS:
        flags.faults.append(
            FlagFault(
                "--check",
                MAX_CHECKS,
                texts[MAX_CHECKS],
                f"one too many; there may be at most {MAX_CHECKS} health checks",
            )
        )
    return flags.every("--check", parse_check)


def _dataplane(text: str) -> HashFamily | None:
    return None if text == AUTO else one_of(HashFamily, AUTO)(text)


def parse_zk(text: str) -> ZooKeeperAddress:
    """Read a ZooKeeper connection string: host[:port],…[/chroot].

    A port that is left out is 2181. ValueError says what is allowed.
    """
    hosts, slash, path = text.partition("/")
    chroot = (slash + path).rstrip("/")
    if (
        not _CHROOT.fullmatch(chroot)
        or not chroot.isprintable()
        or {".", ".."} & set(chroot.split("/"))
    ):
        raise ValueError(
            "the chroot after the hosts must be a printable path as /production/web, without empty "
            "parts, '.' or '..'"
        )
    if chroot == "/zookeeper" or chroot.startswith("/zookeeper/"):
        raise ValueError("the chroot /zookeeper is ZooKeeper's own")
    return ZooKeeperAddress(
        ",".join(_host_and_port(part.strip()) for part in hosts.split(",")), chroot
    )


def _host_and_port(text: str) -> str:
    host, colon, port = text.rpartition(":") if re.search(r":[^\]]*\Z", text) else (text, "", "")
    if not _is_host(host):
        raise ValueError(
            f"{text!r} is not host[:port]; the servers must be a list as "
            "zk1:2181,zk2:2181,[2001:db8::1]:2181/chroot"
        )
    if not colon:
        return f"{host}:{DEFAULT_ZK_PORT}"
    try:
        number = number_within(1, 65535)(port)
    except ValueError as error:
        raise ValueError(f"port {port!r} of {host}: {error}") from error
    return f"{host}:{number}"


def _is_host(text: str) -> bool:
    if bracketed := _BRACKETED_IPV6.fullmatch(text):
        return _is_address(IPv6Address, bracketed[1])
    # No top-level domain is all digits (RFC 3696, 2); resolvers take such a name for an address.
    if text.removesuffix(".").rpartition(".")[2].isdecimal():
        return _is_address(IPv4Address, text)
    return _HOST.fullmatch(text) is not None


def _is_address(kind: type[IPv4Address | IPv6Address], text: str) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True
