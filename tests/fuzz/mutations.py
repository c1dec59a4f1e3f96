"""Data that almost make sense: valid records, changed where readers are weak, as strategies of Hypothesis."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

from hypothesis import strategies as st

# JSON that Python's reader takes though the standard does not, or that does not fit into what other languages have, or is long or deep.
_TOKENS = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "1e308",
        "5e-324",
        "-0",
        "-0.0",
        "1.0",
        "1e0",
        "01",
        "0x10",
        "1_0",
        "+1",
        ".5",
        "true",
        "null",
        "",
    ),
    *(str(1 << bits) for bits in (16, 31, 32, 63, 64)),
    *(f"-{1 << bits}" for bits in (31, 63)),
    *("9" * digits for digits in (308, 400, 4300, 4301)),
    *(f"0.{'1' * digits}" for digits in (20, 3000)),
    *("[" * depth + "]" * depth for depth in (1, 300, 990, 1200)),
    *('{"":' * depth + "0" + "}" * depth for depth in (1, 300, 990, 1200)),
    *(r'"\ud800"', r'"\udc00\ud800"', r'"\u0000"', '"\x01"', '"\\x"', '"', "'a'", "\ufeff", "// a\n1", "/*", "[,]", "{,}", '{"a" 1}', "{1: 2}"),
)
_TEXTS = (
    *("", " ", " 7", "7 ", "07", "+7", "-7", "7.0", "٧", "７", "²", "7\n", "\n", "\r", "\t", "\0", "\x1b[2J", "\x1b]0;a\x07", "\x7f", "\x9b31m"),
    *("\u202e", "\u2066", "\u200b", "\u2028", "\ufeff", "\u00ad", "\u3164", "\ue000", "\U000e0041", "\U0001f600", "e\u0301" * 100, "\ufdfd" * 85),
    *("%s%n", "{0}", "${PATH}", "../..", "/", "a'b\"c\\", "true", "null", "NaN", "format", "__class__"),
    *("a" * length for length in (32, 33, 255, 256, 1000)),
    *("\U0001f600" * length for length in (32, 255)),
)
_CHOICES = (
    "active",
    "draining",
    "failing",
    "dry-run",
    "nftables",
    "clusterip",
    "sourceip",
    "03:bf:c6:33:64:01",
    "ff:ff:ff:ff:ff:ff",
    "02:00:00:00:00:01",
)
_RAW = "raw JSON "  # begins a text in whose place the rest of it is written as it stands

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 1 << 33),
    st.floats(),
    st.text(max_size=40),
    st.sampled_from(_TEXTS),
    st.sampled_from(_CHOICES),
    st.sampled_from(_TOKENS).map(lambda token: _RAW + token),
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_TEXTS) | st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


def written(value: Any) -> str:
    """JSON in which tokens that no value stands for are themselves."""
    text = json.dumps(value)
    return re.sub(rf'"{_RAW}((?:[^"\\]|\\.)*)"', lambda found: str(json.loads(f'"{found[1]}"')), text)


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """A valid record with up to three changes in its values, or some in its bytes, or both."""
    record = json.loads(draw(valid))
    for _change in range(draw(st.integers(0, 3))):
        record = _changed(draw, record)
    text = written(record)
    if isinstance(record, dict) and record and draw(st.booleans()):
        text = f"{text[:-1]}, {json.dumps(draw(st.sampled_from(sorted(record))))}: {written(draw(values))}}}"  # a key for the second time
    data = text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"])), "surrogatepass")
    return draw(st.just(data) | spoiled(data))


def _changed(draw: st.DrawFn, record: Any) -> Any:
    """Another value in the place of the record or of something in it, or something more or less in it."""
    if isinstance(record, dict) and record and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(record)))
        rest = {name: value for name, value in record.items() if name != key}
        match draw(st.sampled_from(["inside", "inside", "inside", "gone", "renamed", "more"])):
            case "inside":
                return {**record, key: _changed(draw, record[key])}
            case "gone":
                return rest
            case "renamed":
                return {**rest, draw(st.sampled_from(_TEXTS) | st.text(max_size=9)): record[key]}
            case _:
                return {**record, draw(st.sampled_from(_TEXTS) | st.text(max_size=9)): draw(values)}
    if isinstance(record, list) and record and draw(st.booleans()):
        place = draw(st.integers(0, len(record) - 1))
        return draw(st.sampled_from([[*record[:place], _changed(draw, record[place]), *record[place + 1 :]], record * 2, record[:place]]))
    return draw(values)


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """Data cut off, with a few other bytes, or repeated."""
    place = draw(st.integers(0, len(data)))
    match draw(st.sampled_from(["cut", "other", "more", "twice"])):
        case "cut":
            return data[:place]
        case "other":
            strange = draw(st.binary(max_size=4))
            return data[:place] + strange + data[place + len(strange) :]
        case "more":
            return data[:place] + draw(st.binary(max_size=9)) + data[place:]
        case _:
            return data + data


@st.composite
def held(draw: st.DrawFn) -> tuple[int, bytes]:
    """A size, and what may lie where a kernel's buckets of that size are told: right, too short or too long, spoiled, or a bomb."""
    total_nodes = draw(st.integers(1, 200) | st.sampled_from([1009, 65_537]))
    size = (total_nodes + 7) // 8
    length = draw(st.sampled_from([size, size, size, 0, size - 1, size + 1, 100 * size]))
    bitmap = (draw(st.binary(min_size=1, max_size=30)) * (length // 1 + 1))[:length]
    data = zlib.compress(bitmap, draw(st.integers(0, 9)))
    return total_nodes, draw(st.just(data) | spoiled(data) | st.binary(max_size=60))


names = st.one_of(st.integers(0, 2000).map(str), st.integers(0, 1 << 21).map(str), st.sampled_from(_TEXTS), st.text(max_size=9))
