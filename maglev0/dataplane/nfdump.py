"""Reading nf_tables back by bare netlink.

libnftables writes our rules, but reads badly: to list one set it loads all elements into a tree, 0.4 s and 25 MB for 65,537 of them,
which the process never gives back. A dump of the same takes a twentieth of the time and keeps nothing. Formats: net/netfilter/nf_tables_api.c
and include/uapi/linux/netfilter/nf_tables.h; every attribute is a length, a type and a value padded to four bytes (netlink(7)).
"""

from __future__ import annotations

import enum
import errno
import os
import socket
import struct
from collections.abc import Iterator
from itertools import chain

from maglev0.errors import DataplaneError

_NETLINK_NETFILTER = 12
_NFTABLES = 10 << 8  # NFNL_SUBSYS_NFTABLES in a message's type
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_FAMILY = struct.Struct("=BBH")  # struct nfgenmsg: family, version, generation
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: the rules changed meanwhile
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_BUFFER = 1 << 17
_ATTEMPTS = 20
_FAMILIES = {"ip": 2, "arp": 3}  # NFPROTO_IPV4, NFPROTO_ARP
_ELEMENT_WORDS = 4  # an element is three attribute heads, one in the other (list element, key, value), and its 32-bit number
_TIMEOUT_S = 2.0


class Kind(enum.IntEnum):
    """What can be dumped, by its message type; the attribute that names the table is number 1 in each but the table's own."""

    TABLE = 1  # NFT_MSG_GETTABLE
    CHAIN = 4  # NFT_MSG_GETCHAIN
    RULE = 7  # NFT_MSG_GETRULE
    SET = 10  # NFT_MSG_GETSET
    ELEMENT = 13  # NFT_MSG_GETSETELEM


def structure(family: str, table: str) -> bytes:
    """Return what the kernel tells of a table, its chains and its rules, handles included; empty where there is no such table.

    Two readings are equal exactly when nobody changed any of that in between.
    """
    return b"".join(entry for kind in (Kind.TABLE, Kind.CHAIN, Kind.RULE) for entry in _entries_of(kind, family, table))


def has_set(family: str, table: str, name: str) -> bool:
    """Whether the table has a set of that name."""
    return any(_attribute(2, name) in entry for entry in _entries_of(Kind.SET, family, table))


def elements(family: str, table: str, name: str) -> frozenset[int]:
    """Return the 32-bit numbers in a set; DataplaneError when there is no such set."""
    try:
        entries = _dump(Kind.ELEMENT, family, table, _attribute(2, name))
    except FileNotFoundError as error:
        raise DataplaneError(f"reading nftables table {family} {table}: there is no set {name}") from error
    return frozenset(chain.from_iterable(map(_numbers, entries)))


def _entries_of(kind: Kind, family: str, table: str) -> list[bytes]:
    try:
        return [entry for entry in _dump(kind, family, table) if _attribute(1, table) in entry]
    except FileNotFoundError:
        return []


def _numbers(entry: bytes) -> tuple[int, ...]:
    for kind, value in _attributes(entry):
        if kind == 3:  # NFTA_SET_ELEM_LIST_ELEMENTS
            # Elements of one plain set are all built alike, so the numbers stand at a fixed distance; the kernel keeps host order.
            words = struct.unpack(f"={len(value) // 4}I", value)
            if any(len(set(words[word::_ELEMENT_WORDS])) > 1 for word in range(_ELEMENT_WORDS - 1)):
                raise DataplaneError("reading back the owned set: its elements are not plain numbers")
            return words[_ELEMENT_WORDS - 1 :: _ELEMENT_WORDS]
    return ()


def _dump(kind: Kind, family: str, table: str, more: bytes = b"") -> list[bytes]:
    """Return the attributes of each object, of one consistent generation of the rules; FileNotFoundError when what they are in is missing."""
    body = _FAMILY.pack(_FAMILIES[family], 0, 0) + _attribute(1, table) + more
    request = _HEADER.pack(_HEADER.size + len(body), _NFTABLES | kind, _REQUEST_DUMP, 1, 0) + body
    for _attempt in range(_ATTEMPTS):
        try:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
                kernel.settimeout(_TIMEOUT_S)
                kernel.send(request)
                return list(_entries(kernel))
        except InterruptedError:
            continue
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DataplaneError(f"reading nftables table {family} {table}: {(error.strerror or str(error)).lower()}") from error
    raise DataplaneError(f"reading nftables table {family} {table}: other programs change the rules without a pause")


def _entries(kernel: socket.socket) -> Iterator[bytes]:
    """Yield each message's attributes; InterruptedError when the rules changed while they were read."""
    while True:
        datagram = kernel.recv(_BUFFER)
        offset = 0
        while offset < len(datagram):
            length, kind, flags, _sequence, _port = _HEADER.unpack_from(datagram, offset)
            if flags & _INTERRUPTED:
                raise InterruptedError
            if kind in (_ERROR, _DONE):
                code = -struct.unpack_from("=i", datagram, offset + _HEADER.size)[0]
                if code == errno.EINTR:
                    raise InterruptedError
                if code:
                    raise OSError(code, os.strerror(code))
                return
            yield datagram[offset + _HEADER.size + _FAMILY.size : offset + length]
            offset += (length + 3) & ~3


def _attribute(kind: int, text: str) -> bytes:
    value = text.encode() + b"\0"
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
