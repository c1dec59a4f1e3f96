from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from maglev0.config import statements
from maglev0.config.statements import MAX_STATEMENT_LINES, Mistake, Statement


def read_statements(text: str) -> list[Statement]:
    found, mistakes = statements.read(text)
    assert mistakes == []
    return found


def mistakes(text: str) -> list[Mistake]:
    return statements.read(text)[1]


LAID_OUT = """\
# what this node is
my-id = 1

cluster-ip = [ "198.51.100.1", # the first
  # none here
  "198.51.100.2",
  "198.51.100.3", "198.51.100.4" ]
notify = '''
/bin/true'''  # a text of two lines
check = [
  \"\"\"
exec:/bin/true\"\"\",
  "tcp:80"
]
"my id" = [] # an odd name
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_statement_and_every_item_has_its_line(end: str) -> None:
    assert read_statements(LAID_OUT.replace("\n", end)) == [
        Statement("my-id", 1, 2, (2,)),
        Statement(
            "cluster-ip",
            ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"],
            4,
            (4, 6, 7, 7),
        ),
        Statement("notify", "/bin/true", 8, (8,)),
        Statement("check", ["exec:/bin/true", "tcp:80"], 10, (12, 13)),
        Statement("my id", [], 15, ()),
    ]


QUOTES = 'each line must be key = value, with text in quotes as in interface = "eth0"'


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (
            "a = 1\ninterface = eth0\n",
            2,
            f"interface: not TOML, invalid value at column 13; {QUOTES}",
        ),
        (
            "cluster-ip = 198.51.100.1",
            1,
            (
                "cluster-ip: not TOML, expected newline or end of document after a statement at "
                f"column 20; {QUOTES}"
            ),
        ),
        (
            "a = 1\n\nmy-id",
            3,
            f"not TOML, expected '=' after a key in a key/value pair at column 6; {QUOTES}",
        ),
        ('a = "x', 1, f"a: not TOML, illegal character '\\n' at column 7; {QUOTES}"),
        ("a = [\n  1,\n  2 3\n]\n", 3, f"not TOML, unclosed array at column 5; {QUOTES}"),
        ("a = 1\nb = [ 1,\n\n", 2, f"the list or text that begins here does not end; {QUOTES}"),
        ('a = """\n\n', 1, f"the list or text that begins here does not end; {QUOTES}"),
        (f"a = {'9' * 5000}", 1, f"too large or nested too deeply; {QUOTES}"),
        (f"a = {'[' * 20_000}", 1, f"too large or nested too deeply; {QUOTES}"),
        ("[maglev0]\nmy-id = 1\n", 1, f"'maglev0' is a table; {QUOTES}, without [tables]"),
        ("[[maglev0]]", 1, f"'maglev0' is a table; {QUOTES}, without [tables]"),
        ("my.id = 1", 1, f"'my' is a table; {QUOTES}, without [tables]"),
        ("my-id = {a = 1}", 1, f"'my-id' is a table; {QUOTES}, without [tables]"),
        (
            "my-id = 1\n\nmy-id = 2",
            3,
            "'my-id' is given again; line 1 has it already",
        ),
    ],
)
def test_what_is_wrong_has_its_line(text: str, line: int, what: str) -> None:
    found = mistakes(text)
    assert found[0] == Mistake(line, what)
    assert len(found) == 1 or text.startswith("a = [")


def test_no_mistake_hides_another() -> None:
    text = "a = x\nb = 2\nc = [1, y]\n[d]\ne = 5\ne = 6\nf = [\n"
    found, wrong = statements.read(text)
    assert [(statement.key, statement.value) for statement in found] == [("b", 2), ("e", 5)]
    assert [mistake.line for mistake in wrong] == [1, 3, 4, 6, 7]


def test_a_statement_may_be_long_but_not_endless() -> None:
    longest = "a = [\n" + "1,\n" * (MAX_STATEMENT_LINES - 2) + "]\n"
    assert read_statements(longest)[0].value == [1] * (MAX_STATEMENT_LINES - 2)
    assert [mistake.line for mistake in mistakes(longest.replace("]", "1,\n]"))] == [1]


scalars = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.booleans(),
)
values = scalars | st.lists(scalars, max_size=4)


def written(value: Any) -> str:
    if isinstance(value, list):
        return "[\n" + "".join(f"  {written(item)}, # one\n" for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return (
        str(value)
        if isinstance(value, int)
        else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    )


@given(
    st.dictionaries(st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True), values, max_size=5),
    st.integers(0, 2),
)
def test_it_says_what_tomllib_says_with_the_lines_besides(
    content: dict[str, Any], blank: int
) -> None:
    text = "".join(f"{key} = {written(value)}\n" + "\n" * blank for key, value in content.items())
    found = read_statements(text)
    assert {statement.key: statement.value for statement in found} == tomllib.loads(text) == content
    lines = text.split("\n")
    for statement in found:
        assert lines[statement.line - 1].startswith(f"{statement.key} = ")
        if isinstance(statement.value, list):
            assert [
                lines[line - 1].strip().removesuffix(", # one") for line in statement.lines
            ] == [written(item) for item in statement.value]


@given(st.text(st.sampled_from("ab=[]{}'\"#,.\n\\ 1-_\x00é\r") | st.characters(), max_size=60))
@example("a=[\n[\n[")
@example("\r")
@example("a = 1\r\r\n")
def test_whatever_stands_there_everything_has_a_line_and_tomllib_agrees(text: str) -> None:
    found, wrong = statements.read(text)
    lines = [statement.line for statement in found] + [mistake.line for mistake in wrong]
    assert all(1 <= line <= text.count("\n") + 1 for line in lines)
    try:
        whole = tomllib.loads(text)
    except (ValueError, RecursionError):
        assert wrong
    else:
        assert wrong or {statement.key: statement.value for statement in found} == whole
