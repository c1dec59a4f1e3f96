from __future__ import annotations

import re
from pathlib import Path

from maglev0.operator.commands import COMMANDS
from maglev0.operator.shell import help_page, help_text, roff
from maglev0.operator.shell.help_text import Item, Option, Part
from tests.support.groff import shown

HELP = """maglev0 try: a try.

Usage:
  maglev0 try [--one=<N>]... [-v]
  maglev0 try (-h | --help)

Options:
  --one=<N>      the one
                 and more of it [default: 1]
  -v, --verbose  say it

First of all,
it tries.

Knowledge, each of them:
  this           one
  that

How to use it:
  bash  so
Or not.

Exit status: 0 tried,
2 not.
"""


def test_a_help_is_taken_to_its_parts() -> None:
    assert help_text.parse(HELP) == help_text.Help(
        "maglev0 try",
        "a try.",
        ("maglev0 try [--one=<N>]... [-v]", "maglev0 try (-h | --help)"),
        (
            Option(("--one",), "N", "the one and more of it [default: 1]"),
            Option(("-v", "--verbose"), None, "say it"),
        ),
        (
            Part(None, "First of all, it tries."),
            Part("Knowledge", (Item("this", "one"), Item("that", ""))),
            Part(None, "How to use it:"),
            Part(None, (Item("bash", "so"),)),
            Part(None, "Or not."),
            Part("Exit status", "0 tried, 2 not."),
        ),
    )


def test_the_page_says_what_the_helps_say(tmp_path: Path) -> None:
    page = tmp_path / "maglev0.8"
    page.write_text(help_page.page())
    text = shown(page)
    assert text.startswith("MAGLEV0(8)")
    helps = [help_text.daemon(), *help_text.commands().values()]
    assert [help_.name for help_ in helps] == ["maglev0", *(f"maglev0 {name}" for name in COMMANDS)]
    for help_ in helps:
        assert help_.usage
        assert help_.options
        for option in help_.options:
            value = f"={option.value}" if option.value else ""
            assert f"{', '.join(option.names)}{value} {' '.join(option.text.split())}" in text
        for part in help_.parts:
            items = (Item("", part.content),) if isinstance(part.content, str) else part.content
            for item in items:
                assert f"{item.name} {item.text}".strip() in text
    assert re.search(r" SIGNALS SIGTERM and SIGINT .* EXIT STATUS 0 stopped", text)


def test_what_troff_would_take_for_its_own_is_text(tmp_path: Path) -> None:
    page = tmp_path / "page.8"
    texts = (
        ".TH is no request here",
        "'nor this",
        r"a \fBback\fR slash -and- ~ ^ ` \"quotes\"",
        "é … –",
    )
    page.write_text(
        '.TH X 8 "" "" ""\n.SH NAME\n'
        + "".join(
            f"{line}\n" for each in texts for line in roff.tidied([".PP", help_page._text(each)])
        )
    )
    text = shown(page)
    for each in texts:
        assert each in text
