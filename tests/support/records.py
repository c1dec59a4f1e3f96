"""Records as anybody may write them into ZooKeeper, and what a decoder makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st

_Record = TypeVar("_Record")

json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(1 << 60, 1 << 2000),
        st.floats(),
        st.text(st.characters(), max_size=20),
        st.text(max_size=300),
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def corrupted(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A good record, spoilt.

    Other values under some of its keys, or under the same key twice, or cut off, or quite other
    bytes.
    """
    changes = st.dictionaries(st.sampled_from(sorted(good)), json_values, max_size=3)
    twice = st.tuples(st.sampled_from(sorted(good)), json_values).map(
        lambda pair: f"{json.dumps(good)[:-1]}, {json.dumps(pair[0])}: {json.dumps(pair[1])}}}"
    )
    texts = st.one_of(
        changes.map(lambda some: json.dumps({**good, **some})), twice, json_values.map(json.dumps)
    )
    encoded = st.tuples(texts, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])).map(
        lambda pair: pair[0].encode(pair[1])
    )
    cut = st.tuples(encoded, st.integers(0, 400)).map(lambda pair: pair[0][: pair[1]])
    return st.one_of(encoded, cut, st.binary(max_size=100))


def outcome_of(decoder: Callable[[bytes], _Record], data: bytes) -> _Record | ValueError:
    """What a decoder makes of that, or why it refuses."""
    try:
        return decoder(data)
    except ValueError as error:
        return error
