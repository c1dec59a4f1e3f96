"""maglev0 man: list the pages of the manual, or show one.

Usage:
  maglev0 man [--roff] [TOPIC]
  maglev0 man (-h | --help)

Options:
  --roff        print the man page maglev0-TOPIC(7) for troff instead
  -h, --help    show this text

Without TOPIC the command lists the pages. In a terminal it shows a page with $PAGER or less -R.
The topic maglev0 is the man page of the command itself, maglev0(8), always for troff.

To read it with man:  maglev0 man maglev0 | man -l -

Exit status: 0 shown, 2 there is no such page, or a word on the command line is wrong.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from io import StringIO
from typing import Any

from maglev0.operator import command
from maglev0.operator.shell import help_page, manual, topic_page

COMMAND = "maglev0"
"""The topic of the command's own man page."""
_PAGER = "less -R"
_MAX_WIDTH = 100


def main(arguments: list[str]) -> int:
    """Run `maglev0 man` with the words after `man` on the command line; returns the exit status."""
    return command.run(__doc__, "man", arguments, _run)


def _run(arguments: dict[str, Any]) -> int:
    topic = arguments["TOPIC"]
    if topic == COMMAND:
        sys.stdout.write(help_page.page())
    elif topic is None:
        _list()
    elif arguments["--roff"]:
        sys.stdout.write(topic_page.page(topic, manual.text(topic)))
    elif sys.stdout.isatty():
        _show(_rendered(manual.text(topic)))
    else:
        sys.stdout.write(manual.text(topic))
    return 0


def _list() -> None:
    known = manual.topics()
    width = max(map(len, known))
    for topic in known:
        sys.stdout.write(f"{topic:{width}}  {manual.summary(manual.text(topic))}\n")


def _rendered(text: str) -> str:
    """The page as a terminal shows it, with bold headings and drawn tables."""
    from rich.console import Console  # noqa: PLC0415  the other ways to show a page need none of it
    from rich.markdown import Markdown  # noqa: PLC0415

    shown = StringIO()
    width = min(_MAX_WIDTH, shutil.get_terminal_size().columns)
    Console(file=shown, force_terminal=True, width=width).print(Markdown(text))
    return shown.getvalue()


def _show(text: str) -> None:
    """Give the text to the pager, or to the terminal where there is no pager."""
    try:
        pager = subprocess.Popen(
            shlex.split(os.environ.get("PAGER") or _PAGER),
            stdin=subprocess.PIPE,
            text=True,
            env={"LESS": "-R", **os.environ},  # a plain "less" shows colours too
        )
    except (OSError, ValueError):  # ValueError: a quote in $PAGER is not closed
        sys.stdout.write(text)
        return
    # Ctrl-C is for the pager. A pager that ends early is no error.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pager.communicate(text)
    finally:
        signal.signal(signal.SIGINT, before)
