"""The configuration file: TOML, whose keys are the daemon's flags without the dashes."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maglev0.config import statements
from maglev0.config.configuration import FLAGS, REPEATABLE, SWITCHES, FlagFault
from maglev0.config.statements import Mistake, Statement
from maglev0.core.text import printable
from maglev0.errors import ConfigError

DEFAULT_PATH = "/etc/maglev0/maglev0.toml"
MAX_BYTES = (
    65_536  # 64 VIPs and 16 of the longest checks are under a tenth of it; the rest is for comments
)

# Flags that are csv on the command line, and may be lists here.
_CSV = frozenset({"--zk", "--cluster-ip", "--check-timing"})
_NUMBER_BITS = 64  # TOML's own limit, which tomllib does not keep

Value = str | list[str] | bool


@dataclass(frozen=True)
class Document:
    """What a file says: each value by its flag, the lines where they stand, and what is wrong so far, without a look at the values' meaning."""

    path: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    lines: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    mistakes: tuple[Mistake, ...] = ()

    def beneath(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the command line's arguments and, where it leaves a flag out, the file's."""
        return {
            **arguments,
            **{flag: value for flag, value in self.values.items() if _left_out(arguments[flag])},
        }

    def errors(self, faults: Sequence[FlagFault], arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """One line for each mistake and fault: the file's in its own order, then the command line's."""
        mine = [
            fault
            for fault in faults
            if fault.flag in self.values and _left_out(arguments[fault.flag])
        ]
        mistakes = sorted([*self.mistakes, *(self._mistake(fault) for fault in mine)])
        return (
            *(f"{printable(self.path)}:{line}: {what}" for line, what in mistakes),
            *(str(fault) for fault in faults if fault not in mine),
        )

    def _mistake(self, fault: FlagFault) -> Mistake:
        lines = self.lines[fault.flag]
        return Mistake(
            lines[min(fault.number, len(lines) - 1)],
            f'{fault.flag.removeprefix("--")}: "{fault.shown}" is refused; {fault.why}',
        )


def read(path: str) -> Document:
    """Read a file; ConfigError if there is nothing to read. What is wrong inside is in the document."""
    text, open_to_others = _text(path)
    found, mistakes = statements.read(text)
    values: dict[str, Value] = {}
    lines: dict[str, tuple[int, ...]] = {}
    for statement in found:
        flag = f"--{statement.key}"
        try:
            values[flag] = _value(flag, statement, open_to_others=open_to_others)
            lines[flag] = statement.lines or (statement.line,)
        except ValueError as error:
            mistakes.append(Mistake(statement.line, f"{printable(statement.key)}: {error}"))
    return Document(path, values, lines, tuple(mistakes))


def file_values(path: str) -> Mapping[str, Value]:
    """What a file says, keyed by "--flag"; ConfigError with the first mistake's line, but without a look at the values' meaning."""
    document = read(path)
    for error in document.errors((), {}):
        raise ConfigError(error)
    return document.values


def default_path() -> str | None:
    """Where commands other than the daemon look if they are not told, if it is there."""
    return DEFAULT_PATH if Path(DEFAULT_PATH).exists() else None


def _left_out(argument: object) -> bool:
    return argument is None or argument is False or argument == []


def _text(path: str) -> tuple[str, bool]:
    """Return the file's text, and whether others than its owner may read it."""
    try:
        with open(path, "rb", opener=_opened) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(
                    f"--config={printable(path)}: cannot be read: not a file; allowed is a TOML file"
                )
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"--config={printable(path)}: cannot be read: {reason}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(
            f"--config={printable(path)}: too large; allowed are at most {MAX_BYTES} bytes"
        )
    return _decoded(path, content), bool(mode & (stat.S_IRGRP | stat.S_IROTH))


def _opened(path: str, flags: int) -> int:
    return os.open(
        path, flags | os.O_NONBLOCK
    )  # a named pipe would keep us waiting for somebody who writes


def _decoded(path: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{printable(path)}:{line}: not UTF-8; allowed is UTF-8 text") from error


def _value(flag: str, statement: Statement, *, open_to_others: bool) -> Value:
    """The value as the command line would have it; ValueError says what is wrong and what is allowed."""
    value = statement.value
    if flag not in FLAGS:
        raise ValueError(_unknown(statement.key))
    if flag in SWITCHES:
        if not isinstance(value, bool):
            raise ValueError("neither on nor off; allowed are true and false")
        return value
    if flag == "--hash-seed" and open_to_others:
        raise ValueError(
            "the seed is a secret and others may read this file; allowed in a file of mode 600"
        )
    if not isinstance(value, list):
        return [_scalar(value)] if flag in REPEATABLE else _scalar(value)
    if flag in REPEATABLE:
        return [_scalar(item) for item in value]
    if flag in _CSV:
        return ",".join(_scalar(item) for item in value)
    raise ValueError("a list; allowed is one value")


def _scalar(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("neither a text nor a number; allowed is what the flag of that name takes")  # noqa: TRY004  the operator's mistake
    if isinstance(value, int) and value.bit_length() > _NUMBER_BITS:
        raise ValueError("too large a number; allowed is what the flag of that name takes")
    return str(value)


def _unknown(key: str) -> str:
    names = [flag.removeprefix("--") for flag in sorted(FLAGS)]
    near = difflib.get_close_matches(key.lower().replace("_", "-"), names, 1)
    return f"no such key; {f'did you mean {near[0]}?' if near else 'allowed are the names of the flags that maglev0 --help shows, without the dashes'}"
