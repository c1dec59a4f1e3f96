"""libnftables in this process: the nft program's own parser and netlink code, without a program per change.

A change of a few hundred buckets takes 2 ms this way, where starting nft alone takes longer. Interface: libnftables(3).
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

from maglev0.errors import DataplaneError, UnavailableError

_LIBRARY = "libnftables.so.1"
_OUTPUT_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON, nftables/libnftables.h


class NftError(DataplaneError):
    """An nft transaction was refused, and nothing of it took place."""


class Nft:
    """One libnftables context, in the network namespace of the thread that made it. Not to be used from two threads."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise UnavailableError(f"nftables: {_LIBRARY} is missing; apt install nftables") from error
        self._declare()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise UnavailableError("nftables: libnftables gave no context; run as root")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Carry out nft commands as one transaction and return what they print; NftError with the first line of the complaint."""
        return self._run(commands, 0)

    def check(self, commands: str) -> None:
        """Let the kernel validate a transaction without carrying it out; NftError when it refuses."""
        self._library.nft_ctx_set_dry_run(self._context, True)
        try:
            self._run(commands, 0)
        finally:
            self._library.nft_ctx_set_dry_run(self._context, False)

    def listing(self, what: str) -> list[dict[str, Any]]:
        """Return the objects of ``nft -j list <what>``, as libnftables-json(5) has them."""
        objects: list[dict[str, Any]] = json.loads(self._run(f"list {what}", _OUTPUT_JSON))["nftables"]
        return objects

    def _run(self, commands: str, flags: int) -> str:
        self._library.nft_ctx_output_set_flags(self._context, flags)
        status = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        # Both buffers are emptied by reading them.
        complaint = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
        output: str = self._library.nft_ctx_get_output_buffer(self._context).decode(errors="replace")
        if status:
            raise NftError(f"nft: {complaint.partition(chr(10))[0] or 'refused without a reason'}")
        return output

    def _declare(self) -> None:
        library, context = self._library, ctypes.c_void_p
        library.nft_ctx_new.restype = context
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_run_cmd_from_buffer.argtypes = [context, ctypes.c_char_p]
        library.nft_ctx_output_set_flags.argtypes = [context, ctypes.c_uint]
        library.nft_ctx_set_dry_run.argtypes = [context, ctypes.c_bool]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(library, name).argtypes = [context]
        for name in ("nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
            getattr(library, name).argtypes = [context]
            getattr(library, name).restype = ctypes.c_char_p
