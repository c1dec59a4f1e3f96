"""Reads the packet filters of this network namespace.

nft lists its rules as JSON. It does not list those of iptables-legacy, which are read apart.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from maglev0.dataplane import rights
from maglev0.dataplane.nftables.libnftables import Nft, NftError
from maglev0.errors import DataplaneError
from maglev0.operator.doctor.filters import judge as filters
from maglev0.operator.doctor.filters import legacy
from maglev0.operator.doctor.filters.foreign_rules import Ruleset

_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON, nftables/libnftables.h
_LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")
_SAVE = "iptables-legacy-save"
_TIMEOUT_S = 10.0


class Filters(NamedTuple):
    """The rules of other programs, and whether the daemon's own tables exist."""

    others: Ruleset
    ours: bool


class _JsonNft(Nft):
    """libnftables, with JSON output."""

    def __init__(self) -> None:
        super().__init__()
        self._library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        self._library.nft_ctx_output_set_flags(self._context, _JSON)

    def table(self, family: str, name: str) -> list[dict[str, Any]]:
        """The objects of a table; none if it was deleted meanwhile."""
        with suppress(NftError):
            printed = self.run(f"list table {family} {name}")
            try:
                return list(json.loads(printed)["nftables"])
            except (ValueError, LookupError, TypeError) as error:
                raise DataplaneError(
                    f"libnftables cannot print table {family} {name} as JSON: install a newer one"
                ) from error
        return []


def read(vip: IPv4Address) -> Filters:
    """Read all rules; of the daemon's own tables, with their many elements, only the names.

    Raises DataplaneError.
    """
    # Without the right libnftables would write to stderr by itself.
    rights.require("reading the packet filters")
    # Not as JSON: nft 1.0.6 prints foreign memory for table flags that it does not know, such as
    # those of the daemon's tables.
    tables = filters.tables(Nft().run("list tables"))
    nft = _JsonNft()
    objects = [
        found
        for family, name in tables
        if not filters.is_daemon_table(name)
        for found in nft.table(family, name)
    ]
    return Filters(
        Ruleset([*objects, *legacy.objects(_legacy())]), filters.has_own_tables(tables, vip)
    )


def _legacy() -> str:
    """The rules of iptables-legacy; "" if the kernel has none, because asking creates tables."""
    try:
        if not _LEGACY_TABLES.exists() or not _LEGACY_TABLES.read_text("ascii").split():
            return ""
        done = subprocess.run(
            [_SAVE], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise DataplaneError(
            f"the kernel has rules of iptables-legacy, and {_SAVE} is missing: apt install iptables"
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise DataplaneError(f"reading the rules of iptables-legacy: {error}") from error
    return done.stdout
