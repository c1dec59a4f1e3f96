"""Reads nf_tables back by bare netlink.

libnftables writes our rules, but reads badly: to list one set it loads all elements into a tree,
0.4 s and 25 MB for 65,537 of them, which the process never gives back. A dump of the same takes a
twentieth of the time and keeps nothing.

Sockets stay open between dumps: when one closes, the kernel first finishes with what earlier
transactions deleted, up to 30 ms. A socket carries one dump at a time, and `TableReader.elements`
lets the loop turn in the middle of one, so each dump takes a socket that no other one is using.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import NamedTuple

from maglev0.dataplane.netlink.message import (
    DONE,
    DUMP,
    ERROR,
    FAMILY,
    HEADER,
    NETLINK_NETFILTER,
    REQUEST,
    attribute,
    attributes,
    text,
)
from maglev0.dataplane.nftables.message import (
    FAMILIES,
    MessageKind,
    chains_of,
    counter_of,
    counts_of,
    message_type,
    numbers_of,
    without_counts,
)
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.readings import Count

_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: the rules changed meanwhile
_BUFFER = (
    1 << 15
    # the most that the kernel puts into one datagram of a dump (netlink_recvmsg,
    # net/netlink/af_netlink.c)
)
_ATTEMPTS = 20
_TIMEOUT_S = 2.0
_USE = {
    MessageKind.GET_TABLE: 3,
    MessageKind.GET_CHAIN: 6,
}  # NFTA_TABLE_USE, NFTA_CHAIN_USE: counts of what leads there, elements of maps included
_NAME = {MessageKind.GET_CHAIN: 3, MessageKind.GET_SET: 2}  # NFTA_CHAIN_NAME, NFTA_SET_NAME
_RULE_CHAIN = 2  # NFTA_RULE_CHAIN
_TABLE_OWNER = 7  # NFTA_TABLE_OWNER
_SET_FLAGS, _SET_ANONYMOUS, _SET_MAP = 3, 0x1, 0x8  # NFTA_SET_FLAGS, NFT_SET_…


class Objects(NamedTuple):
    """The names of what a table holds."""

    chains: tuple[str, ...]
    sets: tuple[str, ...]
    maps: tuple[str, ...]


class TableReader:
    """Reads the tables of one name, in the network namespace of the calling thread.

    Readings may interleave: each has a socket of its own. Sockets of finished readings are used
    again, so all readings must come from the namespace of the first one until `close`.
    """

    def __init__(self, table: str) -> None:
        self._table = table
        self._idle: list[socket.socket] = []

    def close(self) -> None:
        """Close the idle sockets; a reading that is under way closes its own at its end."""
        idle, self._idle = self._idle, []
        for kernel in idle:
            kernel.close()

    def owner(self, family: str) -> int:
        """Return the netlink port of the socket that owns a table; 0 without owner or table."""
        owners = [
            dict(attributes(entry)).get(_TABLE_OWNER, b"")
            for entry in self._entries_of(MessageKind.GET_TABLE, family)
        ]
        return int.from_bytes(b"".join(owners), "big")

    def structure(self, family: str) -> bytes:
        """Return the kernel's description of a table, its chains and its rules, with handles.

        Empty when there is no such table. Two readings are equal exactly when none of that was
        changed in between; elements of sets and maps may have changed.
        """
        kinds = (MessageKind.GET_TABLE, MessageKind.GET_CHAIN, MessageKind.GET_RULE)
        return b"".join(
            _steady_part(kind, entry) for kind in kinds for entry in self._entries_of(kind, family)
        )

    def counted(self, chain: str) -> Count:
        """Return the sum of the counters in a chain's rules."""
        wanted = text(_RULE_CHAIN, chain)
        counts = [
            counts_of(entry)
            for entry in self._entries_of(MessageKind.GET_RULE, "inet", wanted)
            if wanted in entry
        ]
        return Count(*(sum(column) for column in zip((0, 0), *counts, strict=True)))

    def counters(self) -> dict[str, Count]:
        """Return the count of each named counter of the table; empty without such a table."""
        found = [counter_of(entry) for entry in self._entries_of(MessageKind.GET_OBJECTS, "inet")]
        return {name: Count(packets, size) for name, packets, size in filter(None, found)}

    def objects(self, family: str) -> Objects:
        """Return the names of a table's chains, sets and maps; none when there is no such table."""
        chains = tuple(
            _name(MessageKind.GET_CHAIN, entry)
            for entry in self._entries_of(MessageKind.GET_CHAIN, family)
        )
        flags = {
            _name(MessageKind.GET_SET, entry): _set_flags(entry)
            for entry in self._entries_of(MessageKind.GET_SET, family)
        }
        named = {name: flag for name, flag in flags.items() if not flag & _SET_ANONYMOUS}
        maps = tuple(name for name, flag in named.items() if flag & _SET_MAP)
        return Objects(chains, tuple(name for name in named if name not in maps), maps)

    async def elements(self, name: str) -> frozenset[int]:
        """Return the 32-bit numbers in a set; the loop turns while they are read.

        DataplaneError when there is no such set. May be cancelled.
        """
        before: frozenset[int] | None = None
        for _attempt in range(_ATTEMPTS):
            found: set[int] = set()
            try:
                with closing(
                    self._dump(MessageKind.GET_ELEMENTS, "inet", text(2, name))
                ) as entries:
                    for entry in entries:
                        found.update(numbers_of(entry))
                        await asyncio.sleep(0)
            except InterruptedError:
                # Renewals interrupt dumps all the time. What two readings show alike was not being
                # changed.
                before, again = frozenset(found), before
                if before == again:
                    return before
            except FileNotFoundError as error:
                raise self._no_set(name) from error
            else:
                return frozenset(found)
        raise self._unsteady()

    def goto(self, name: str) -> str | None:
        """Return the chain that the one element of a verdict map leads to; None without an element.

        DataplaneError when there is no such map.
        """
        try:
            chains = [
                chain
                for entry in self._steady(MessageKind.GET_ELEMENTS, "inet", text(2, name))
                for chain in chains_of(entry)
            ]
        except FileNotFoundError as error:
            raise self._no_set(name) from error
        return chains[0] if len(chains) == 1 else None

    def _entries_of(self, kind: MessageKind, family: str, more: bytes = b"") -> list[bytes]:
        try:
            return [
                entry for entry in self._steady(kind, family, more) if text(1, self._table) in entry
            ]
        except FileNotFoundError:
            return []

    def _steady(self, kind: MessageKind, family: str, more: bytes = b"") -> list[bytes]:
        """Return all entries of a short dump, of one consistent generation of the rules.

        FileNotFoundError when what they are in is missing.
        """
        for _attempt in range(_ATTEMPTS):
            try:
                return list(self._dump(kind, family, more))
            except InterruptedError:
                continue
        raise self._unsteady()

    def _dump(
        self, kind: MessageKind, family: str, more: bytes = b""
    ) -> Generator[bytes, None, None]:
        """Yield the attributes of each object.

        InterruptedError at the end when rules changed meanwhile, FileNotFoundError when there are
        none.
        """
        body = FAMILY.pack(FAMILIES[family], 0, 0) + text(1, self._table) + more
        idle = self._idle
        kernel: socket.socket | None = None
        complete = False
        try:
            kernel = idle.pop() if idle else _open()
            kernel.send(
                HEADER.pack(HEADER.size + len(body), message_type(kind), REQUEST | DUMP, 1, 0)
                + body
            )
            yield from _entries(kernel)
            complete = True
        except (InterruptedError, FileNotFoundError):
            complete = True
            raise
        except OSError as error:
            raise DataplaneError(
                f"reading nftables table {family} {self._table}: "
                f"{(error.strerror or str(error)).lower()}"
            ) from error
        finally:
            if kernel is not None:
                # After an incomplete dump, the rest of its answers would be taken for answers to
                # the next.
                if complete and idle is self._idle:
                    idle.append(kernel)
                else:
                    kernel.close()

    def _no_set(self, name: str) -> DataplaneError:
        return DataplaneError(f"reading nftables table inet {self._table}: there is no set {name}")

    def _unsteady(self) -> DataplaneError:
        return DataplaneError(
            f"reading nftables table {self._table}: other programs change the rules all the time"
        )


def _open() -> socket.socket:
    kernel = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
    )
    kernel.settimeout(_TIMEOUT_S)
    return kernel


def _steady_part(kind: MessageKind, entry: bytes) -> bytes:
    """Return the part of an entry that only a change of rules changes."""
    if kind is MessageKind.GET_RULE:
        return without_counts(entry)
    return b"".join(
        attribute(number, value) for number, value in attributes(entry) if number != _USE.get(kind)
    )


def _name(kind: MessageKind, entry: bytes) -> str:
    return dict(attributes(entry))[_NAME[kind]].rstrip(b"\0").decode()


def _set_flags(entry: bytes) -> int:
    return int.from_bytes(dict(attributes(entry)).get(_SET_FLAGS, b""), "big")


def _entries(kernel: socket.socket) -> Iterator[bytes]:
    """Yield each message's attributes up to the end of the dump.

    InterruptedError at the end when the rules changed while they were read.
    """
    interrupted = False
    while True:
        datagram = kernel.recv(_BUFFER)
        offset = 0
        while offset < len(datagram):
            length, kind, flags, _sequence, _port = HEADER.unpack_from(datagram, offset)
            interrupted |= bool(flags & _INTERRUPTED)
            if kind in (ERROR, DONE):
                code = -struct.unpack_from("=i", datagram, offset + HEADER.size)[0]
                if interrupted or code == errno.EINTR:
                    raise InterruptedError
                if code:
                    raise OSError(code, os.strerror(code))
                return
            yield datagram[offset + HEADER.size + FAMILY.size : offset + length]
            offset += (length + 3) & ~3
