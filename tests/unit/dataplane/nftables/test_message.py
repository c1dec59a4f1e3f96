from __future__ import annotations

import struct
from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from maglev0.dataplane.netlink.message import ACK, CREATE, HEADER, attribute, attributes, text
from maglev0.dataplane.nftables import message as nfmessage
from maglev0.dataplane.nftables.message import Message, MessageKind

VIP = IPv4Address("198.51.100.1")
numbers = st.lists(st.integers(0, 0xFFFFFFFF), max_size=200)
bodies = st.binary(max_size=64).map(lambda data: data + bytes(-len(data) % 4))
messages = st.lists(
    st.builds(Message, st.sampled_from(MessageKind), st.sampled_from(["inet", "arp"]), bodies),
    min_size=1,
    max_size=5,
)


def unpacked(data: bytes) -> list[tuple[int, int, bytes]]:
    """Each message's type, flags and what is behind the netlink header."""
    found, offset = [], 0
    while offset < len(data):
        length, kind, flags, _sequence, _port = HEADER.unpack_from(data, offset)
        assert length % 4 == 0
        found.append((kind, flags, data[offset + 16 : offset + length]))
        offset += length
    return found


@settings(deadline=None)
@given(messages)
def test_a_batch_frames_its_messages_and_asks_for_one_acknowledgement(sent: list[Message]) -> None:
    (begin, *found, end) = unpacked(nfmessage.batch(sent))
    assert (begin[0], end[0]) == (0x10, 0x11)
    assert begin[2] == end[2] == b"\0\0\0\x0a"  # the subsystem, in network order
    assert [(kind, body[4:]) for kind, _flags, body in found] == [
        (0xA00 | message.kind, message.body) for message in sent
    ]
    assert [body[0] for _kind, _flags, body in found] == [
        {"inet": 1, "arp": 3}[message.family] for message in sent
    ]
    assert [bool(flags & ACK) for _kind, flags, _body in found] == [False] * (len(sent) - 1) + [
        True
    ]
    assert [bool(flags & CREATE) for _kind, flags, _body in found] == [
        m.kind in (MessageKind.NEW_TABLE, MessageKind.NEW_ELEMENTS) for m in sent
    ]


@settings(deadline=None)
@given(numbers)
def test_numbers_are_read_as_they_were_written(written: list[int]) -> None:
    assert list(nfmessage.numbers_of(nfmessage.add_numbers("t", "s", written).body)) == written


def test_elements_stand_in_the_wire_format() -> None:
    """As `nft --debug=netlink` and strace show them.

    A list, in it elements, in each a key, in that a value.
    """
    message = nfmessage.delete_numbers("t", "s", [7, 9])
    assert message.kind is MessageKind.DELETE_ELEMENTS
    element = struct.pack("=HHHHHHI", 16, 0x8001, 12, 0x8001, 8, 1, 7)
    assert message.body == struct.pack(
        "=HH4sHH4sHH", 6, 1, b"t\0\0\0", 6, 2, b"s\0\0\0", 36, 0x8003
    ) + element + element[:12] + struct.pack("=I", 9)


def test_the_most_elements_fit_into_an_attribute() -> None:
    body = nfmessage.add_numbers("t", "s", range(nfmessage.MAX_ELEMENTS)).body
    assert sum(1 for _attribute in attributes(body)) == 3


@settings(deadline=None)
@given(numbers, st.sets(st.integers(0, 200)))
def test_numbers_are_found_among_elements_with_more_to_them(
    written: list[int], commented: set[int]
) -> None:
    """As they are when somebody else adds some with a comment."""
    elements = b""
    for place, number in enumerate(written):
        more = attribute(6, b"comment") if place in commented else b""
        elements += attribute(
            0x8001,
            attribute(0x8001, attribute(1, struct.pack("=I", number))) + more,
        )
    entry = text(1, "t") + attribute(0x8003, elements)
    assert list(nfmessage.numbers_of(entry)) == written


def test_an_empty_message_holds_no_numbers() -> None:
    assert list(nfmessage.numbers_of(nfmessage.empty("t", "s").body)) == []


def test_a_timeout_is_in_milliseconds() -> None:
    assert struct.pack("!HHQ", 0, 0, 1500)[4:] in nfmessage.add_address("t", "s", VIP, 1500).body


def test_the_chain_that_a_map_leads_to_is_read_as_it_was_written() -> None:
    assert list(nfmessage.chains_of(nfmessage.add_goto("t", "m", VIP, "leased").body)) == ["leased"]
    assert list(nfmessage.chains_of(nfmessage.empty("t", "m").body)) == []
    assert list(nfmessage.chains_of(nfmessage.add_numbers("t", "s", [1, 2]).body)) == []


def test_a_table_keeps_its_flags_where_none_are_given() -> None:
    assert list(attributes(nfmessage.new_table("arp", "t").body)) == [(1, b"t\0")]
    assert list(attributes(nfmessage.new_table("arp", "t", 6).body)) == [
        (1, b"t\0"),
        (2, b"\0\0\0\6"),
    ]
    assert nfmessage.delete_table("inet", "t") == Message(
        MessageKind.DELETE_TABLE, "inet", text(1, "t")
    )


def counter(packets: int, size: int) -> bytes:
    """The attributes of a counter, be it a rule's own or one with a name."""
    return attribute(1, struct.pack("!Q", size)) + attribute(2, struct.pack("!Q", packets))


def rule(*counts: tuple[int, int]) -> bytes:
    """A dumped rule with so many counters, and something else beside each."""
    expressions = b""
    for data in (counter(*count) for count in counts):
        for name, body in (("immediate", b"drop"), ("counter", data)):
            expressions += attribute(1, text(1, name) + attribute(2, body))
    return text(1, "t") + text(2, "early") + attribute(4, expressions)


counts = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=3)


@settings(deadline=None)
@given(counts)
def test_what_a_rule_counted_is_the_sum_of_its_counters(counted: list[tuple[int, int]]) -> None:
    assert nfmessage.counts_of(rule(*counted)) == (
        sum(packets for packets, _size in counted),
        sum(size for _packets, size in counted),
    )


@settings(deadline=None)
@given(counts)
def test_without_counts_two_rules_are_equal_that_counted_otherwise(
    counted: list[tuple[int, int]],
) -> None:
    zeros = nfmessage.without_counts(rule(*[(0, 0)] * len(counted)))
    assert nfmessage.without_counts(rule(*counted)) == zeros
    assert zeros != nfmessage.without_counts(rule(*counted, (0, 0)))
    assert b"early" in zeros


def test_a_named_counter_is_read_and_objects_of_other_kinds_are_none() -> None:
    def dumped(kind: int) -> bytes:
        body = attribute(4, counter(7, 420))
        return text(1, "t") + text(2, "other") + attribute(3, struct.pack("!I", kind)) + body

    assert nfmessage.counter_of(dumped(1)) == ("other", 7, 420)
    assert nfmessage.counter_of(dumped(2)) is None  # a quota
