"""The pages of the manual, Markdown files that ship with the program."""

from __future__ import annotations

import difflib
import re
from importlib import resources

from maglev0.errors import ConfigError

_SUFFIX = ".md"


def topics() -> tuple[str, ...]:
    """The names of the pages, sorted."""
    names = [entry.name for entry in _pages().iterdir() if entry.name.endswith(_SUFFIX)]
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in names))


def text(topic: str) -> str:
    """The page in Markdown; ConfigError names the pages there are if there is none of that name."""
    known = topics()
    if topic not in known:
        near = difflib.get_close_matches(topic.lower(), known, 1)
        suggestion = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"there is no manual page {topic!r}; {suggestion}the pages are {', '.join(known)}"
        )
    return (_pages() / f"{topic}{_SUFFIX}").read_text(encoding="utf-8")


def summary(page: str) -> str:
    """What a page is about, in a few words: its first sentence, without "This page"."""
    paragraph = page.split("\n\n")[1]
    sentence = re.split(r"\.(?:\s|$)", " ".join(paragraph.split()))[0]
    return sentence.removeprefix("This page ")


def _pages() -> resources.abc.Traversable:
    return resources.files("maglev0") / "manual"
