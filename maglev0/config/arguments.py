"""Reads a command line by the text that --help shows; every error is one line without a secret.

docopt parses. Where it refuses, it says "usage" for most faults, so this module looks for the fault
itself. An error shows the command line up to the first word that may be a secret. That is the value
of a flag for secrets, of an unknown or ambiguous flag (a secret's flag may be misspelt), and a word
that looks like a URL with a password. Nothing after it is shown: a secret with a blank in it, given
without quotes, arrives as several words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import docopt

from maglev0.core.text import printable
from maglev0.errors import ConfigError

# Flags whose values no message may repeat. --zk-auth takes the name of a password's file, but the
# password itself may stand there by mistake.
SECRETS = frozenset({"--hash-seed", "--zk-auth"})

_OPTION = re.compile(r"^ +(-.*?)(?: {2,}|$)", re.MULTILINE)
_NAME = re.compile(r"--?[A-Za-z][A-Za-z-]*")
# The URL may be cut at a blank in the password, before the "@".
_URL_PASSWORD = re.compile(r"@|://[^/\[]*:(?![0-9]*(/|$))")
_HIDDEN = "…"
_UNCLEAR = "a word is missing, or there is one too many"


class _Flag(NamedTuple):
    names: tuple[str, ...]
    has_value: bool
    is_repeatable: bool

    @property
    def is_secret(self) -> bool:
        return not SECRETS.isdisjoint(self.names)


def parse(
    text: str,
    words: Sequence[str],
    command: str | None = None,
    version: str | None = None,
    commands: Sequence[str] = (),
) -> dict[str, Any]:
    """Read `words` by the help text of `command` (`None`: of the daemon, which has no name).

    Returns docopt's dictionary of flags and words. Raises SystemExit after --help and --version,
    and ConfigError for a command line that does not fit. If the first word resembles one of
    `commands`, the error suggests that one.
    """
    named = [] if command is None else [command]
    try:
        return dict(docopt.docopt(text, [*named, *words], version=version))
    except docopt.DocoptExit as error:
        reading = _Reading(_flags(text))
        reading.read(words)
        line = printable(" ".join([*named, *reading.shown]))
        near = difflib.get_close_matches("".join(reading.shown[:1]), commands, 1)
        suggestion = f"did you mean maglev0 {near[0]}? " if near else ""
        raise ConfigError(
            f"{reading.fault or _UNCLEAR}; cannot read the command line: {line}; "
            f"{suggestion}{' '.join(['maglev0', *named])} --help shows what is allowed"
        ) from error


def _flags(text: str) -> tuple[_Flag, ...]:
    flags = []
    for item in _OPTION.findall(text):
        names = tuple(_NAME.findall(item))
        repeated = any(re.search(rf"{name}(=\S+?)?\]\.\.\.", text) for name in names)
        flags.append(_Flag(names, re.search(r"[= ]<?[A-Z]", item) is not None, repeated))
    return tuple(flags)


class _Reading:
    """Reads words as docopt does; `shown` is what an error may repeat, `fault` the first fault."""

    def __init__(self, flags: Iterable[_Flag]) -> None:
        self._by_name = {name: flag for flag in flags for name in flag.names}
        self._given: set[_Flag] = set()
        self._hidden_after = ""
        self.shown: list[str] = []
        self.fault = ""

    def read(self, words: Sequence[str]) -> None:
        remaining = list(words)
        while remaining:
            word = remaining.pop(0)
            if word == "--":
                for each in (word, *remaining):
                    self._show(each)
                return
            if word.startswith("--"):
                self._long(word, remaining)
            elif word.startswith("-") and word != "-":
                self._short(word, remaining)
            else:
                self._show(word)

    def _long(self, word: str, remaining: list[str]) -> None:
        name, equals, _value = word.partition("=")
        found = [name] if name in self._by_name else self._beginning_with(name)
        if len(found) != 1:
            self._unknown(word, found)
            return
        flag = self._by_name[found[0]]
        if flag.is_secret:
            self._hide(found[0], equals or "=")
        if equals and not flag.has_value:
            self._found(f"{found[0]} takes no value")
        self._count(flag, found[0])
        self._show(word)
        if flag.has_value and not equals:
            self._value(found[0], remaining)

    def _short(self, word: str, remaining: list[str]) -> None:
        for position, letter in enumerate(word[1:], 1):
            flag = self._by_name.get(f"-{letter}")
            if flag is None:
                self._unknown(word, [])
                return
            self._count(flag, f"-{letter}")
            if flag.has_value:
                self._show(word)
                if position + 1 == len(word):
                    self._value(f"-{letter}", remaining)
                return
        self._show(word)

    def _beginning_with(self, name: str) -> list[str]:
        return [each for each in self._by_name if each.startswith(name)]

    def _value(self, name: str, remaining: list[str]) -> None:
        if not remaining:
            self._found(f"{name} requires a value")
            return
        value = remaining.pop(0)
        if value.startswith("-") and not re.fullmatch(r"-[0-9.]+", value):
            self._hide(name, " ")  # a flag, of a secret perhaps, that docopt takes for this value
        self._show(value)

    def _count(self, flag: _Flag, name: str) -> None:
        if flag in self._given and not flag.is_repeatable:
            self._found(f"{name} is given twice")
        self._given.add(flag)

    def _unknown(self, word: str, candidates: list[str]) -> None:
        found = _NAME.match(word)
        name = found[0] if found else word[:2]
        name = next((secret for secret in SECRETS if name.startswith(secret)), name)
        if not word.startswith("--"):
            name = name[:2]  # the letters after it may be the value
        if self._hidden_after:
            self._found(f"a flag after {self._hidden_after} is unknown")
        elif found and candidates:
            self._found(f"{name} is not unique: {' or '.join(candidates)}")
        else:
            meant = word.partition("=")[0]
            meant = meant if word.startswith("--") else f"-{meant}"
            long = len(meant) > len("--x")
            near = difflib.get_close_matches(meant, self._by_name, 1, 0.7) if long else []
            self._found(f"there is no flag {name}" + (f", did you mean {near[0]}?" if near else ""))
        if word == name:
            self._show(word)
            self._hidden_after = self._hidden_after or name
        self._hide(name, "=" if "=" in word else "")

    def _show(self, word: str) -> None:
        if _URL_PASSWORD.search(word):
            name = re.match(r"--[a-z-]+=", word)
            self._hide(name[0] if name else "", "")
        if not self._hidden_after:
            self.shown.append(word)
        elif not self.shown[-1].endswith(_HIDDEN):
            self.shown.append(_HIDDEN)

    def _hide(self, name: str, between: str) -> None:
        """Show no word from here on, but `name` where it is not shown yet."""
        if not self._hidden_after:
            is_shown = self.shown[-1:] == [name]
            self.shown.append(_HIDDEN if is_shown else f"{name}{between}{_HIDDEN}")
            self._hidden_after = name or "that word"

    def _found(self, fault: str) -> None:
        self.fault = self.fault or fault
