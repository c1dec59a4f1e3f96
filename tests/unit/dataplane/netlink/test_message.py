from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from maglev0.dataplane.netlink.message import attribute, attributes, text


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=6))
def test_attributes_are_read_as_they_were_written(written: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in written)
    assert list(attributes(data)) == written
    assert len(data) % 4 == 0


def test_an_attribute_that_claims_no_length_ends_the_reading() -> None:
    assert list(attributes(text(1, "a") + bytes(8))) == [(1, b"a\0")]
