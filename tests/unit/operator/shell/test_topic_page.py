"""The pages of the manual as man pages: groff reads them without a warning, and nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maglev0.operator.shell import manual, topic_page
from tests.support.groff import shown

MARKDOWN = """# Title

This page shows *all* that **Markdown** has: here. And more.

## A part

.TH is no request, 'nor this; a \\\\ and `--flag=<X>` -and- ~ ^ "quotes" é … –

### A smaller part

- one
  goes on

  with a second paragraph
- two
  1. inner

> quoted

3. three
4. four

```
.code  "as it is"
   'indented
```

A [link](https://example.com/a-b) and <https://example.com/c>.\\
The end.

| name | what it is |
| --- | --- |
| `--a` | .first cell |
| b |  |
"""


def page_of(tmp_path: Path, topic: str, text: str) -> str:
    page = tmp_path / f"maglev0-{topic}.7"
    page.write_text(topic_page.page(topic, text), encoding="ascii")
    return shown(page)


@pytest.mark.parametrize("topic", manual.topics())
def test_each_page_is_a_man_page_with_all_its_words(topic: str, tmp_path: Path) -> None:
    text = manual.text(topic)
    page = page_of(tmp_path, topic, text)
    assert page.startswith(f"MAGLEV0-{topic.upper()}(7)")
    assert f"NAME maglev0-{topic} - {manual.summary(text)} DESCRIPTION " in page
    for title in re.findall(r"^## (.*)", text, re.MULTILINE):
        assert re.sub(r"[`*]", "", title).upper() in page
    # Cells of a table stand side by side, so words are looked for one by one.
    words = {
        word
        for word in re.findall(r"[A-Za-z0-9_]+", text)
        if not re.search(rf"^#+ .*\b{word}\b", text, re.MULTILINE)
    }
    assert {word for word in words if word not in page} == set()


def test_every_kind_of_block_is_shown(tmp_path: Path) -> None:
    page = page_of(tmp_path, "try", MARKDOWN)
    for part in (
        "NAME maglev0-try - shows *all* that **Markdown** has: here DESCRIPTION",
        "This page shows all that Markdown has: here. And more. A PART",
        """.TH is no request, 'nor this; a \\ and --flag=<X> -and- ~ ^ "quotes" é … –""",
        (
            "A smaller part • one goes on with a second paragraph • two 1. inner quoted 3. three "
            "4. four"
        ),
        """.code "as it is" 'indented A link (https://example.com/a-b) and https://example.com/c.""",
        "The end. name what it is --a .first cell b SEE ALSO maglev0(8)",
    ):
        assert part in page


def test_a_wide_table_is_folded_and_its_words_stay_whole(tmp_path: Path) -> None:
    long = "/a/very/long/path/of/one/word/" * 2
    text = f"# T\n\nThis page is wide.\n\n| a | b |\n| --- | --- |\n| {long} | {'word ' * 40}|\n"
    page = page_of(tmp_path, "wide", text)
    assert long in page
    assert page.count("word") == 40 + 2
    assert topic_page._widths([(long,), ("b" * 60,)]) == [60, 60]


def test_what_no_man_page_shows_is_an_error() -> None:
    with pytest.raises(KeyError):
        topic_page.page("x", "# T\n\nThis page is short.\n\n<b>html</b>\n\n***\n")
