"""libnftables in this process: the nft program's parser and netlink code, without a child process.

It writes rules, which are installed once. Elements, which change all the time, go by bare netlink
in a tenth of the time. Interface: libnftables(3).
"""

from __future__ import annotations

import ctypes

from maglev0.errors import DataplaneError, UnavailableError

_LIBRARY = "libnftables.so.1"


class NftError(DataplaneError):
    """The kernel or libnftables refused an nft transaction; nothing of it took place."""


class Nft:
    """One libnftables context, in the network namespace of the thread that made it.

    Not safe for use from two threads.
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise UnavailableError(
                f"nftables: {_LIBRARY} is missing; apt install nftables"
            ) from error
        self._declare()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise UnavailableError("nftables: libnftables gave no context; run as root")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, commands: str) -> str:
        """Carry out nft commands as one transaction; return what they print.

        NftError with the first line of the complaint.
        """
        return self._run(commands)

    def check(self, commands: str) -> None:
        """Let the kernel validate a transaction without executing it; NftError when it refuses."""
        self._library.nft_ctx_set_dry_run(self._context, True)
        try:
            self._run(commands)
        finally:
            self._library.nft_ctx_set_dry_run(self._context, False)

    def _run(self, commands: str) -> str:
        status = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        # Reading empties both buffers.
        complaint = self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
        output: str = self._library.nft_ctx_get_output_buffer(self._context).decode(
            errors="replace"
        )
        if status:
            raise NftError(f"nft: {complaint.partition(chr(10))[0] or 'refused without a reason'}")
        return output

    def _declare(self) -> None:
        library, context = self._library, ctypes.c_void_p
        library.nft_ctx_new.restype = context
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_run_cmd_from_buffer.argtypes = [context, ctypes.c_char_p]
        library.nft_ctx_set_dry_run.argtypes = [context, ctypes.c_bool]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(library, name).argtypes = [context]
        for name in ("nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
            getattr(library, name).argtypes = [context]
            getattr(library, name).restype = ctypes.c_char_p
