"""Health checks as the flags give them: kind, target and timing.

Pure: imports no I/O.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import SplitResult, urlsplit

MAX_CHECKS = 16  # a node report has room for as many
# The text stands in log lines, reports and labels of metrics. A longer check belongs in a script.
MAX_CHECK_CHARACTERS = 255
DEFAULT_TIMING = "2,1,2,3"

# At shorter intervals the health checks are the load: starting a program costs some milliseconds.
MIN_INTERVAL_S = 0.1
MAX_INTERVAL_S = 3600.0
MIN_TIMEOUT_S = 0.05
MAX_TIMEOUT_S = 60.0  # the start of the daemon waits for the first result
MAX_IN_A_ROW = 100

_ALLOWED = (
    "must be tcp:PORT, tcp:ADDRESS:PORT, http://[HOST][:PORT]/PATH, https://[HOST][:PORT]/PATH, "
    "exec:/PROGRAM ARGUMENTS or file:/PATH"
)
_LABEL = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_NAME = re.compile(rf"({_LABEL}\.)*{_LABEL}\.?")
_HTTP_PORTS = {"http": 80, "https": 443}


class CheckKind(StrEnum):
    """What a health check looks at."""

    TCP = "tcp"
    HTTP = "http"
    EXEC = "exec"
    FILE = "file"


@dataclass(frozen=True)
class HealthCheck:
    """One health check; `str()` returns the operator's text, by which all output names it.

    An `address` of `None` is the VIP. `host` is the Host header of an HTTP request (empty: the
    address and port). No name is ever resolved, because the loss of a name server would make every
    node fail at once.
    """

    text: str
    kind: CheckKind
    address: IPv4Address | IPv6Address | None = None
    port: int = 0
    host: str = ""
    tls: bool = False
    path: str = ""
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class CheckTiming:
    """When health checks run, in seconds, and how many results in a row count.

    `rise` good results make a check up, `fall` bad ones make it down.
    """

    interval_s: float
    timeout_s: float
    rise: int
    fall: int

    def __str__(self) -> str:
        return f"{self.interval_s:g},{self.timeout_s:g},{self.rise},{self.fall}"


def parse_check(text: str) -> HealthCheck:
    """Read a health check; ValueError says what is allowed, and repeats no password."""
    if len(text) > MAX_CHECK_CHARACTERS or not text.isprintable():
        raise ValueError(f"must be at most {MAX_CHECK_CHARACTERS} printable characters")
    kind, _colon, rest = text.partition(":")
    parse = {"tcp": _tcp, "http": _http, "https": _http, "exec": _exec, "file": _file}.get(kind)
    if parse is None:
        raise ValueError(_ALLOWED)
    return parse(text, rest)


def parse_timing(text: str) -> CheckTiming:
    """Read `INTERVAL,TIMEOUT,RISE,FALL`; ValueError says what is allowed."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4:
        raise ValueError(f"must be INTERVAL,TIMEOUT,RISE,FALL, as {DEFAULT_TIMING}")
    interval_s = _seconds("the interval", parts[0], MIN_INTERVAL_S, MAX_INTERVAL_S)
    timeout_s = _seconds("the timeout", parts[1], MIN_TIMEOUT_S, MAX_TIMEOUT_S)
    if timeout_s > interval_s:
        raise ValueError(
            "the timeout must be at most the interval, because one run ends before the next is "
            f"due: {timeout_s:g} s > {interval_s:g} s"
        )
    return CheckTiming(interval_s, timeout_s, _count("rise", parts[2]), _count("fall", parts[3]))


def _seconds(what: str, text: str, least: float, most: float) -> float:
    if (
        not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text, re.ASCII)
        or not least <= float(text) <= most
    ):
        raise ValueError(f"{what} must be {least:g} to {most:g} seconds")
    return float(text)


def _count(what: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) or not 1 <= int(text) <= MAX_IN_A_ROW:
        raise ValueError(f"{what} must be 1 to {MAX_IN_A_ROW} results in a row")
    return int(text)


def _tcp(text: str, rest: str) -> HealthCheck:
    address, colon, port = rest.rpartition(":")
    return HealthCheck(
        text, CheckKind.TCP, address=_address(address) if colon else None, port=_port(port)
    )


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        raise ValueError("the port must be from 1 to 65535, as tcp:80 or http://:8080/health")
    return int(text)


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        address = ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise ValueError(
            "the address must be one of this host, as tcp:127.0.0.1:80 or tcp:[::1]:80"
        ) from error
    if (address.version == 6) != (text[:1] == "[" and text[-1:] == "]") or "%" in text:
        raise ValueError("the address must be IPv4, or IPv6 in brackets without a zone, as [::1]")
    return address


def _http(text: str, _rest: str) -> HealthCheck:
    if not re.fullmatch(r"https?://[!-~]*", text):
        raise ValueError("must be a URL in ASCII without spaces, as http://:8080/health")
    scheme, netloc, path, query, fragment = _split(text)
    if "@" in netloc:
        raise ValueError(
            "must be a URL without user and password: logs, status and metrics show health checks"
        )
    if fragment:
        raise ValueError("must be a URL without #fragment, because no server receives it")
    host, port = _host_and_port(netloc)
    return HealthCheck(
        text,
        CheckKind.HTTP,
        address=_address_of(host),
        port=_port(port) if port else _HTTP_PORTS[scheme],
        host=netloc.removesuffix(":") if host else "",
        tls=scheme == "https",
        path=(path or "/") + (f"?{query}" if query else ""),
    )


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError as error:
        raise ValueError("must be a URL, as http://:8080/health") from error


def _host_and_port(netloc: str) -> tuple[str, str]:
    parts = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?", netloc)
    if parts is None:
        raise ValueError(
            "must be a URL with a host, an IPv6 address in brackets, and a port after a colon, as "
            "http://[::1]:8080/health"
        )
    return parts[1], parts[2] or ""


def _address_of(host: str) -> IPv4Address | IPv6Address | None:
    """The address for the host of a URL: 127.0.0.1 for localhost, `None` (the VIP) for a name.

    Every other name is the VIP's, because the health check is about the VIP's service.
    """
    if host.lower() == "localhost":
        return IPv4Address("127.0.0.1")
    # No top-level domain is all digits (RFC 3696, 2).
    if host.startswith("[") or host.rpartition(".")[2].isdecimal():
        return _address(host)
    if host and not _NAME.fullmatch(host):
        raise ValueError(
            "the host of the URL must be the name of the service, an address of this host, or "
            "nothing for the VIP"
        )
    return None


def _exec(text: str, rest: str) -> HealthCheck:
    try:
        arguments = tuple(shlex.split(rest))
    except ValueError as error:
        raise ValueError(
            f"must be a program and its arguments, quoted as for a shell: {str(error).lower()}"
        ) from error
    if not arguments or not arguments[0].startswith("/"):
        raise ValueError(
            "must be the full path of a program, as exec:/usr/local/bin/check-web --quick; no "
            "shell runs it"
        )
    return HealthCheck(text, CheckKind.EXEC, arguments=arguments)


def _file(text: str, rest: str) -> HealthCheck:
    if not rest.startswith("/"):
        raise ValueError("must be the full path of a file, as file:/run/web.up")
    return HealthCheck(text, CheckKind.FILE, path=rest)
