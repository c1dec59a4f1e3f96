"""Reads the packet filters of this network namespace: nft's in its JSON, and those of iptables-legacy, which nft does not show."""

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
from maglev0.operator.doctor.filters import foreign, legacy
from maglev0.operator.doctor.filters.judge import Ruleset

_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON, nftables/libnftables.h
_LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")
_SAVE = "iptables-legacy-save"
_TIMEOUT_S = 10.0


class Filters(NamedTuple):
    """The rules of others, and whether our own tables stand."""

    others: Ruleset
    ours: bool


class _JsonNft(Nft):
    """libnftables, which prints JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        self._library.nft_ctx_output_set_flags(self._context, _JSON)

    def table(self, family: str, name: str) -> list[dict[str, Any]]:
        """The objects of a table; none if it is gone meanwhile."""
        with suppress(NftError):
            printed = self.run(f"list table {family} {name}")
            try:
                return list(json.loads(printed)["nftables"])
            except (ValueError, LookupError, TypeError) as error:
                raise DataplaneError(
                    f"libnftables cannot print table {family} {name} as JSON: a newer one may"
                ) from error
        return []


def read(vip: IPv4Address) -> Filters:
    """Read them all; our own tables, with their many elements, only by name. Raises DataplaneError."""
    rights.require(
        "reading the packet filters"
    )  # without it libnftables would write to stderr by itself
    # Not as JSON: in that, nft 1.0.6 prints memory that is not its own for a table's flags that it does not know, as those of our own.
    tables = foreign.tables(Nft().run("list tables"))
    nft = _JsonNft()
    objects = [
        found
        for family, name in tables
        if not foreign.is_ours(name)
        for found in nft.table(family, name)
    ]
    return Filters(Ruleset([*objects, *legacy.objects(_legacy())]), foreign.ours(tables, vip))


def _legacy() -> str:
    """What iptables-legacy has; asked only where there is something, for asking alone makes tables."""
    try:
        if not _LEGACY_TABLES.exists() or not _LEGACY_TABLES.read_text("ascii").split():
            return ""
        done = subprocess.run(
            [_SAVE], capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise DataplaneError(
            f"there are rules of iptables-legacy, and no {_SAVE} to read them: apt install iptables"
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise DataplaneError(f"reading the rules of iptables-legacy: {error}") from error
    return done.stdout
