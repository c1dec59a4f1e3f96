"""The wire format of nf_tables' netlink messages, elements of sets in particular.

Pure: imports no I/O.

Sources: include/uapi/linux/netfilter/nf_tables.h; net/netfilter/nf_tables_api.c.
"""

from __future__ import annotations

import enum
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

from maglev0.dataplane.netlink.message import (
    ACK,
    ATTRIBUTE,
    CREATE,
    FAMILY,
    HEADER,
    NESTED,
    REQUEST,
    attribute,
    attributes,
    text,
)

FAMILIES = {"inet": 1, "arp": 3}  # NFPROTO_INET, NFPROTO_ARP
MAX_ELEMENTS = 4000  # of 16 bytes each: the length of an attribute has 16 bits

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # NFNL_MSG_BATCH_…
# A plain element is three nested attribute heads (list element, key, value) and its 32-bit number.
_ELEMENT_WORDS = 4
_GOTO = -4 & 0xFFFFFFFF  # NFT_GOTO
_COUNTER, _COUNTER_OBJECT = b"counter\0", 1  # the name of the expression, and NFT_OBJECT_COUNTER


class MessageKind(enum.IntEnum):
    """The kinds of messages; attribute number 1 names the table in each."""

    NEW_TABLE = 0  # NFT_MSG_NEWTABLE, and so on
    GET_TABLE = 1
    DELETE_TABLE = 2
    GET_CHAIN = 4
    GET_RULE = 7
    GET_SET = 10
    NEW_ELEMENTS = 12
    GET_ELEMENTS = 13
    DELETE_ELEMENTS = 14
    GET_OBJECTS = 19


class Message(NamedTuple):
    """One message of a batch: what to do, in which family, with which attributes."""

    kind: MessageKind
    family: str
    body: bytes


def batch(messages: Sequence[Message]) -> bytes:
    """Build one transaction.

    The kernel acknowledges its last message, and answers every message that it refuses.
    """
    resource = struct.unpack("=H", struct.pack("!H", _SUBSYSTEM))[0]
    parts = [_pack(_BATCH_BEGIN, REQUEST, FAMILY.pack(0, 0, resource))]
    for number, (kind, family, body) in enumerate(messages, 1):
        flags = (
            REQUEST
            | (CREATE if kind in (MessageKind.NEW_TABLE, MessageKind.NEW_ELEMENTS) else 0)
            | (ACK if number == len(messages) else 0)
        )
        parts.append(_pack(message_type(kind), flags, FAMILY.pack(FAMILIES[family], 0, 0) + body))
    parts.append(_pack(_BATCH_END, REQUEST, FAMILY.pack(0, 0, resource)))
    return b"".join(parts)


def message_type(kind: MessageKind) -> int:
    """Return the type of an nf_tables message among the messages of all netfilter."""
    return _SUBSYSTEM << 8 | kind


def new_table(family: str, table: str, flags: int | None = None) -> Message:
    """Make a table unless it exists; without `flags` an existing one keeps its own."""
    more = b"" if flags is None else attribute(2, struct.pack("!I", flags))  # NFTA_TABLE_FLAGS
    return Message(MessageKind.NEW_TABLE, family, text(1, table) + more)


def delete_table(family: str, table: str) -> Message:
    """Remove a table and all that is in it."""
    return Message(MessageKind.DELETE_TABLE, family, text(1, table))


def add_numbers(table: str, name: str, numbers: Sequence[int]) -> Message:
    """Add at most `MAX_ELEMENTS` 32-bit numbers to a set; those that it holds do no harm."""
    return Message(
        MessageKind.NEW_ELEMENTS,
        "inet",
        _in_set(table, name) + attribute(3 | NESTED, _plain_elements(numbers)),
    )


def delete_numbers(table: str, name: str, numbers: Sequence[int]) -> Message:
    """Delete at most `MAX_ELEMENTS` 32-bit numbers from a set; refused when one is not there."""
    return Message(
        MessageKind.DELETE_ELEMENTS,
        "inet",
        _in_set(table, name) + attribute(3 | NESTED, _plain_elements(numbers)),
    )


def empty(table: str, name: str) -> Message:
    """Remove all elements of a set or a map."""
    return Message(MessageKind.DELETE_ELEMENTS, "inet", _in_set(table, name))


def add_address(table: str, name: str, address: IPv4Address, timeout_ms: int) -> Message:
    """Add an address to a set; the kernel removes it after `timeout_ms`."""
    return _add_element(
        table, name, _address_key(address) + attribute(4, struct.pack("!Q", timeout_ms))
    )  # NFTA_SET_ELEM_TIMEOUT


def add_goto(table: str, name: str, address: IPv4Address, chain: str) -> Message:
    """Add an address to a verdict map: go to that chain."""
    verdict = attribute(1, struct.pack("!I", _GOTO)) + text(
        2, chain
    )  # NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN
    data = attribute(
        2 | NESTED, attribute(2 | NESTED, verdict)
    )  # NFTA_SET_ELEM_DATA, NFTA_DATA_VERDICT
    return _add_element(table, name, _address_key(address) + data)


def numbers_of(entry: bytes) -> Sequence[int]:
    """Return the 32-bit numbers in one dumped message of a set's elements."""
    elements = _elements(entry)
    words = array("I", elements[: len(elements) & ~3])
    # Plain elements are built alike, so the numbers are at a fixed distance; the kernel keeps host
    # order.
    if (
        all(len(set(words[word::_ELEMENT_WORDS])) <= 1 for word in range(_ELEMENT_WORDS - 1))
        and len(words) % _ELEMENT_WORDS == 0
    ):
        return words[_ELEMENT_WORDS - 1 :: _ELEMENT_WORDS]
    # Other programs may add elements with a comment.
    keys = (_inside_all(element, 1) for _kind, element in attributes(elements))  # NFTA_SET_ELEM_KEY
    return [
        int.from_bytes(value, sys.byteorder) for key in keys for value in _inside(key, 1)
    ]  # NFTA_DATA_VALUE


def chains_of(entry: bytes) -> Iterator[str]:
    """Yield the chains that a dumped message of a verdict map's elements leads to."""
    for _kind, element in attributes(_elements(entry)):
        for verdict in _inside(_inside_all(element, 2), 2):
            yield from (value.rstrip(b"\0").decode() for value in _inside(verdict, 2))


def counts_of(entry: bytes) -> tuple[int, int]:
    """Return the packets and bytes of all counters in one dumped rule."""
    counts = [_count(data) for data in _counters(entry)]
    return sum(packets for packets, _size in counts), sum(size for _packets, size in counts)


def without_counts(entry: bytes) -> bytes:
    """Return a dumped rule with its counts set to zero."""
    for data in _counters(entry):
        entry = entry.replace(data, bytes(len(data)))
    return entry


def counter_of(entry: bytes) -> tuple[str, int, int] | None:
    """Return the name, packets and bytes of one dumped object; None when it is no counter."""
    found = dict(attributes(entry))
    # NFTA_OBJ_NAME, …_TYPE, …_DATA
    if int.from_bytes(found.get(3, b""), "big") != _COUNTER_OBJECT:
        return None
    return found[2].rstrip(b"\0").decode(), *_count(found[4])


def _counters(entry: bytes) -> Iterator[bytes]:
    """Yield the attributes of each counter in one dumped rule."""
    for _kind, expression in attributes(
        _inside_all(entry, 4) if _COUNTER in entry else b""
    ):  # NFTA_RULE_EXPRESSIONS
        found = dict(attributes(expression))  # NFTA_EXPR_NAME, …_DATA
        if found.get(1) == _COUNTER:
            yield found[2]


def _count(data: bytes) -> tuple[int, int]:
    found = dict(attributes(data))  # NFTA_COUNTER_BYTES, …_PACKETS
    return int.from_bytes(found[2], "big"), int.from_bytes(found[1], "big")


def _pack(kind: int, flags: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, 1, 0) + body


def _in_set(table: str, name: str) -> bytes:
    return text(1, table) + text(2, name)  # NFTA_SET_ELEM_LIST_TABLE, …_SET


def _plain_elements(numbers: Sequence[int]) -> bytes:
    words = array("I", bytes(4 * _ELEMENT_WORDS * len(numbers)))
    # NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE: each a head of length and type, as one
    # word.
    for word, (length, kind) in enumerate(((16, 1 | NESTED), (12, 1 | NESTED), (8, 1))):
        head = int.from_bytes(ATTRIBUTE.pack(length, kind), sys.byteorder)
        words[word::_ELEMENT_WORDS] = array("I", [head]) * len(numbers)
    words[_ELEMENT_WORDS - 1 :: _ELEMENT_WORDS] = array("I", numbers)
    return words.tobytes()


def _address_key(address: IPv4Address) -> bytes:
    return attribute(1 | NESTED, attribute(1, address.packed))  # NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE


def _add_element(table: str, name: str, element: bytes) -> Message:
    elements = attribute(
        3 | NESTED, attribute(1 | NESTED, element)
    )  # NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_LIST_ELEM
    return Message(MessageKind.NEW_ELEMENTS, "inet", _in_set(table, name) + elements)


def _elements(entry: bytes) -> bytes:
    return _inside_all(entry, 3)  # NFTA_SET_ELEM_LIST_ELEMENTS


def _inside(data: bytes, wanted: int) -> Iterable[bytes]:
    return (value for kind, value in attributes(data) if kind == wanted)


def _inside_all(data: bytes, wanted: int) -> bytes:
    return b"".join(_inside(data, wanted))
