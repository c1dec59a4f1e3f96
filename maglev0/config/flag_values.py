"""Parsers of single flags. Every refusal is a ValueError that says what is allowed.

Pure: imports no I/O.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from maglev0.core.settings import SEED_LIMIT

MAX_VIPS = 64  # each costs rules, a table and the renewal of a lease

_Choice = TypeVar("_Choice", bound=enum.StrEnum)
_INTERFACE = re.compile(r"[^/:*\\\s\"]+")
_INTERFACE_BYTES = 15  # IFNAMSIZ less the final zero
_PATH_BYTES = 4095  # PATH_MAX less the final zero
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\]")


def number_within(least: int, most: int, why: str = "") -> Callable[[str], int]:
    """A check for whole numbers in a range, in ASCII decimal digits; `why` ends the error."""

    def check(text: str) -> int:
        # int() alone takes "1_000", " 7 " and digits of other scripts, and refuses thousands of
        # digits with an error of its own.
        if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}{why}")
        return int(text)

    return check


def seconds_within(least: float, most: float, example: str) -> Callable[[str], float]:
    """A check for seconds in a range, with at most six digits after the point."""

    def check(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or not least <= float(text) <= most:
            raise ValueError(f"must be {least:g} to {most:g} seconds, as {example}")
        return float(text)

    return check


def one_of(kind: type[_Choice], *others: str) -> Callable[[str], _Choice]:
    """A check for the name of an enumeration's member; the error also names `others` as allowed."""
    allowed = (*others, *kind)

    def check(text: str) -> _Choice:
        try:
            return kind(text)
        except ValueError as error:
            raise ValueError(f"must be {', '.join(allowed[:-1])} or {allowed[-1]}") from error

    return check


def parse_seed(text: str) -> int:
    """Read a 32-bit seed."""
    allowed = f"must be a whole number from 0 to {SEED_LIMIT - 1}, or hexadecimal as 0x1234"
    if not re.fullmatch(r"[0-9]{1,10}|0[xX][0-9a-fA-F]{1,8}", text):
        raise ValueError(allowed)
    seed = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    if seed >= SEED_LIMIT:
        raise ValueError(allowed)
    return seed


def parse_vips(text: str) -> tuple[IPv4Address, ...]:
    """Read VIPs as csv; keeps their order."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MAX_VIPS:
        raise ValueError(f"must be at most {MAX_VIPS} addresses, not {len(parts)}")
    vips: dict[IPv4Address, None] = {}
    for part in parts:
        vip = _vip(part, "" if len(parts) == 1 else f"{part!r} ")
        if vip in vips:
            raise ValueError(f"must name each address once, but {vip} is there twice")
        vips[vip] = None
    return tuple(vips)


def _vip(text: str, which: str) -> IPv4Address:
    try:
        address = IPv4Address(text)
    except ValueError as error:
        raise ValueError(
            f"{which}must be an IPv4 address, as 198.51.100.1 or 198.51.100.1,198.51.100.2"
        ) from error
    if (
        address.is_multicast
        or address.is_loopback
        or address.is_unspecified
        or address.is_link_local
        or int(address) == (1 << 32) - 1
    ):
        raise ValueError(f"{which}must be a unicast IPv4 address, neither loopback nor link-local")
    return address


def parse_interface(text: str) -> str:
    """Read the name of a network interface."""
    # The kernel's rule is dev_valid_name(), net/core/dev.c. Quote, star and backslash have a
    # meaning in nft rules.
    if (
        not _INTERFACE.fullmatch(text)
        or text in (".", "..")
        or not text.isprintable()
        or len(text.encode()) > _INTERFACE_BYTES
    ):
        raise ValueError(
            f"must be the name of a network interface: 1 to {_INTERFACE_BYTES} bytes without "
            "slash, colon, quote, star, backslash or space"
        )
    if text == "lo":
        raise ValueError("must be an interface that other machines reach, not the loopback")
    return text


def parse_program(text: str) -> str:
    """Read the full path of a program; $PATH is not searched."""
    if (
        not text.startswith("/")
        or text.endswith("/")
        or not text.isprintable()
        or len(text.encode()) > _PATH_BYTES
    ):
        raise ValueError(
            "must be the full path of a program, without arguments, as /usr/local/bin/notify-us"
        )
    return text


def parse_listener(text: str) -> tuple[str, int]:
    """Read an IP address, IPv6 in brackets, and a port."""
    host, _colon, port = text.rpartition(":")
    bracketed = _BRACKETED.fullmatch(host)
    try:
        address = str(IPv6Address(bracketed[1]) if bracketed else IPv4Address(host))
        return address, number_within(1, 65535)(port)
    except ValueError as error:
        raise ValueError(
            "must be an IP address of this machine and a port, as 127.0.0.1:9105, 0.0.0.0:9105 or "
            "[::]:9105"
        ) from error
