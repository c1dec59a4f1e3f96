"""Writes what changes often in our tables, and keeps other programs off them, by bare netlink.

What changes often is elements of sets and maps. A transaction costs a tenth of what it does through
libnftables, and leaves nothing in the process's memory.

From Linux 6.9 on, a netlink socket can *own* a table, so that no other program can change or flush
it. A table can *persist* when that socket closes for whatever reason: it is then an orphan, which
anybody may change and the next owner adopts. A table becomes persistent only when it is made, and
libnftables writes through a socket of its own. So tables are made here, persistent and without an
owner, filled by libnftables, and owned after that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from maglev0.dataplane.netlink.message import HEADER, NETLINK_NETFILTER
from maglev0.dataplane.nftables import message as nfmessage
from maglev0.dataplane.nftables.message import Message
from maglev0.dataplane.nftables.reader import TableReader
from maglev0.errors import DataplaneError

_OWNER, _PERSIST = 0x2, 0x4  # NFT_TABLE_F_OWNER, NFT_TABLE_F_PERSIST
_SO_SNDBUFFORCE = 32  # include/uapi/asm-generic/socket.h
_SEND_BUFFER = 1 << 20  # several messages with the most elements
_RECEIVE = 1 << 16
_FAMILIES = ("inet", "arp")


class Tables:
    """Our two tables of one name, in the network namespace of the thread that calls `open`.

    `guard` asks to own them where the kernel supports it.
    """

    def __init__(self, name: str, *, guard: bool = True) -> None:
        self._name = name
        self._guard = guard
        self._guarded = False
        self._kernel: socket.socket | None = None
        self._port = 0
        self.reader = TableReader(name)

    @property
    def port(self) -> int:
        """The netlink port that all transactions of this object come from."""
        return self._port

    @property
    def guarded(self) -> bool:
        """Whether no other program can change the tables."""
        return self._guarded

    def open(self) -> None:
        """Open the socket unless it is open; DataplaneError if another process owns the tables."""
        if self._kernel is None:
            self._kernel = _open(self._port)
            self._port = self._kernel.getsockname()[0]
        if self.reader.owner("inet") not in (0, self._port):
            self.close()
            raise DataplaneError(
                f"nftables table {self._name} belongs to another process: maglev0 runs for this "
                "address already"
            )

    def close(self) -> None:
        """Close the sockets; the tables stay, as orphans if they were owned."""
        self.reader.close()
        if self._kernel is not None:
            self._kernel.close()
        self._kernel = None
        self._guarded = False

    def create(self) -> None:
        """Make both tables unless they exist; DataplaneError when another process owns them."""
        for family in _FAMILIES:
            try:
                self.run(nfmessage.new_table(family, self._name, _PERSIST if self._guard else None))
            except (
                _UnsupportedError
            ):  # the kernel does not know the flag, or the table was made without it
                self.run(nfmessage.new_table(family, self._name))

    def own(self) -> None:
        """Keep other programs off the tables, if the kernel can and the tables were made for it."""
        with contextlib.suppress(_UnsupportedError):
            if self._guard:
                self.run(
                    *(
                        nfmessage.new_table(family, self._name, _OWNER | _PERSIST)
                        for family in _FAMILIES
                    )
                )
                self._guarded = True

    def disown(self) -> None:
        """Give up ownership, so that libnftables can write to the tables."""
        if self._guarded:
            self.close()
            self.open()

    def remove(self) -> None:
        """Remove both tables, if they exist."""
        for family in _FAMILIES:
            self.run(
                nfmessage.new_table(family, self._name), nfmessage.delete_table(family, self._name)
            )

    def run(self, *messages: Message) -> None:
        """Carry out one transaction.

        DataplaneError when it was refused, and nothing of it took place.
        """
        doing = f"changing nftables table {self._name}"
        if self._kernel is None:
            raise DataplaneError(f"{doing}: the dataplane is not open")
        try:
            self._kernel.send(nfmessage.batch(messages))
            code = _refusal(self._kernel)
        except OSError as error:
            raise DataplaneError(f"{doing}: {(error.strerror or str(error)).lower()}") from error
        if code in (errno.EOPNOTSUPP, errno.EINVAL):
            raise _UnsupportedError(f"{doing}: this kernel cannot do that")
        if code == errno.EPERM:
            raise DataplaneError(f"{doing}: not permitted; run as root")
        if code:
            raise DataplaneError(f"{doing}: {os.strerror(code).lower()}")


class _UnsupportedError(DataplaneError):
    """The kernel does not know what it was asked for."""


def _open(port: int) -> socket.socket:
    try:
        kernel = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
        )
        kernel.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
        kernel.bind((port, 0))
    except OSError as error:
        raise DataplaneError(
            f"opening a socket to nftables: {(error.strerror or str(error)).lower()}; run as root"
        ) from error
    return kernel


def _refusal(kernel: socket.socket) -> int:
    """Return the error number of the first refusal, 0 for none.

    All answers are there when the transaction has been sent.
    """
    codes = []
    with contextlib.suppress(BlockingIOError):
        while True:
            codes.append(
                -struct.unpack_from("=i", kernel.recv(_RECEIVE, socket.MSG_DONTWAIT), HEADER.size)[
                    0
                ]
            )
    return next(filter(None, codes), 0 if codes else errno.ENOMSG)
