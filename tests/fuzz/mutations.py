"""Almost valid data, as strategies of Hypothesis: valid records, changed where readers are weak."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

# JSON that Python reads although the standard forbids it, that other languages cannot hold, or that
# is long or deep.
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
    *(
        r'"\ud800"',
        r'"\udc00\ud800"',
        r'"\u0000"',
        '"\x01"',
        '"\\x"',
        '"',
        "'a'",
        "\ufeff",
        "// a\n1",
        "/*",
        "[,]",
        "{,}",
        '{"a" 1}',
        "{1: 2}",
    ),
)
_TEXTS = (
    *(
        "",
        " ",
        " 7",
        "7 ",
        "07",
        "+7",
        "-7",
        "7.0",
        "٧",
        "７",
        "²",
        "7\n",
        "\n",
        "\r",
        "\t",
        "\0",
        "\x1b[2J",
        "\x1b]0;a\x07",
        "\x7f",
        "\x9b31m",
    ),
    *(
        "\u202e",
        "\u2066",
        "\u200b",
        "\u2028",
        "\ufeff",
        "\u00ad",
        "\u3164",
        "\ue000",
        "\U000e0041",
        "\U0001f600",
        "e\u0301" * 100,
        "\ufdfd" * 85,
    ),
    *(
        "%s%n",
        "{0}",
        "${PATH}",
        "../..",
        "/",
        "a'b\"c\\",
        "true",
        "null",
        "NaN",
        "format",
        "__class__",
    ),
    *("a" * length for length in (32, 33, 255, 256, 1000)),
    "9" * 400,
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

tokens = st.sampled_from(_TOKENS).map(lambda token: _RAW + token)
texts = st.sampled_from(_TEXTS) | st.sampled_from(_CHOICES) | st.text(max_size=40)
numbers = st.integers(-2, 1 << 33) | st.integers() | st.floats() | tokens
scalars = st.one_of(st.none(), st.booleans(), numbers, texts, tokens)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=6,
)


def written(value: Any) -> str:
    """JSON in which tokens that no value stands for are themselves."""
    text = json.dumps(value)
    return re.sub(
        rf'"{_RAW}((?:[^"\\]|\\.)*)"', lambda found: str(json.loads(f'"{found[1]}"')), text
    )


def one_by_one(valid: bytes) -> Iterator[bytes]:
    """A valid record with one value or key replaced by what readers are weak at."""
    for record in _replaced(json.loads(valid)):
        yield written(record).encode("utf-8", "surrogatepass")


def _replaced(value: Any) -> Iterator[Any]:
    yield from (_RAW + token for token in _TOKENS)
    yield from _TEXTS
    if isinstance(value, list):
        yield from (value * 50, [*value, None], value[:-1])
        yield from (
            [*value[:place], other, *value[place + 1 :]]
            for place, inner in enumerate(value)
            for other in _replaced(inner)
        )
    if isinstance(value, dict):
        for key, inner in value.items():
            rest = {name: some for name, some in value.items() if name != key}
            yield from (rest, {**value, "more": inner})
            yield from ({**rest, text: inner} for text in _TEXTS)
            yield from ({**value, key: other} for other in _replaced(inner))


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """A valid record with a few changes in its values, and now and then in its bytes."""
    record = json.loads(draw(valid))
    for _change in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        record = _changed(draw, record)
    text = written(record)
    if isinstance(record, dict) and record and not draw(st.integers(0, 4)):
        key = json.dumps(draw(st.sampled_from(sorted(record))))
        text = f"{text[:-1]}, {key}: {written(draw(values))}}}"
    data = text.encode(
        draw(st.sampled_from([*["utf-8"] * 9, "utf-8-sig", "utf-16", "utf-32"])), "surrogatepass"
    )
    return draw(st.sampled_from([st.just(data)] * 3 + [spoiled(data)]).flatmap(lambda some: some))


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """Another value for this one or one in it, mostly of the same type, or one more or less."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        return _changed_object(draw, value)
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(value) - 1))
        return draw(
            st.sampled_from(
                [
                    [*value[:place], _changed(draw, value[place]), *value[place + 1 :]],
                    value * 20,
                    value[:place],
                ]
            )
        )
    alike = (
        texts if isinstance(value, str) else numbers if isinstance(value, int | float) else values
    )
    return draw(alike if draw(st.integers(0, 4)) else values)


def _changed_object(draw: st.DrawFn, value: dict[str, Any]) -> dict[str, Any]:
    key = draw(st.sampled_from(sorted(value)))
    rest = {name: some for name, some in value.items() if name != key}
    match draw(st.sampled_from([*["inside"] * 6, "gone", "renamed", "more"])):
        case "inside":
            return {**value, key: _changed(draw, value[key])}
        case "gone":
            return rest
        case "renamed":
            return {**rest, draw(texts): value[key]}
        case _:
            return {**value, draw(texts): draw(values)}


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
    """A size, and data for the buckets of a kernel: right, short, long, spoiled, or a bomb."""
    total_nodes = draw(st.integers(1, 200) | st.sampled_from([1009, 65_537]))
    size = (total_nodes + 7) // 8
    length = draw(st.sampled_from([size, size, size, 0, size - 1, size + 1, 100 * size]))
    bitmap = (draw(st.binary(min_size=1, max_size=30)) * (length // 1 + 1))[:length]
    data = zlib.compress(bitmap, draw(st.integers(0, 9)))
    return total_nodes, draw(st.just(data) | spoiled(data) | st.binary(max_size=60))


names = st.one_of(
    st.integers(0, 2000).map(str),
    st.integers(0, 1 << 21).map(str),
    st.sampled_from(_TEXTS),
    st.text(max_size=9),
)
