"""The wire format that all netlink messages share: headers and attributes.

Pure: imports no I/O.

Source: netlink(7). Every attribute is a length, a type and a value padded to four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
FAMILY = struct.Struct("=BBH")  # struct nfgenmsg: family, version, resource
NETLINK_NETFILTER = 12
REQUEST, ACK, DUMP, CREATE = 0x1, 0x4, 0x300, 0x400  # NLM_F_…
ERROR, DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
NESTED = 0x8000  # NLA_F_NESTED
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length with this head, type
_TYPE_MASK = 0x3FFF  # NLA_TYPE_MASK


def attribute(kind: int, value: bytes) -> bytes:
    """Build one attribute; the value must be shorter than 65,532 bytes (16-bit length)."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def text(kind: int, value: str) -> bytes:
    """Build an attribute that is a name."""
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each attribute's type and value; stop at one that is shorter than its head."""
    offset = 0
    while offset + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[offset + ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
