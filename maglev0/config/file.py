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
# 64 VIPs and 16 of the longest health checks need less than a tenth; the rest is for comments.
MAX_BYTES = 65_536

# Flags that are csv on the command line and may be lists in the file.
_CSV = frozenset({"--zk", "--cluster-ip", "--check-timing"})
_NUMBER_BITS = 64  # TOML's limit, which tomllib does not enforce

Value = str | list[str] | bool


@dataclass(frozen=True)
class Document:
    """The values of a file by flag, their lines, and the mistakes in its form.

    The meaning of the values is not checked here.
    """

    path: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    lines: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    mistakes: tuple[Mistake, ...] = ()

    def beneath(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the command line, and the file's for flags that it leaves out."""
        return {
            **arguments,
            **{flag: value for flag, value in self.values.items() if _left_out(arguments[flag])},
        }

    def errors(self, faults: Sequence[FlagFault], arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """One line for each mistake: those of the file by line, then those of the command line."""
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
            f'{fault.flag.removeprefix("--")}: "{fault.shown}": {fault.why}',
        )


def read(path: str) -> Document:
    """Read a file; ConfigError if it cannot be read. The document holds the mistakes in it."""
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
    """Return the values of a file, keyed by "--flag"; ConfigError names the first mistake.

    The meaning of the values is not checked.
    """
    document = read(path)
    for error in document.errors((), {}):
        raise ConfigError(error)
    return document.values


def default_path() -> str | None:
    """The file that commands read if --config is left out; `None` if it does not exist."""
    return DEFAULT_PATH if Path(DEFAULT_PATH).exists() else None


def _left_out(argument: object) -> bool:
    return argument is None or argument is False or argument == []


def _text(path: str) -> tuple[str, bool]:
    """Return the text of the file, and whether users other than its owner may read it."""
    try:
        with open(path, "rb", opener=_opened) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(
                    f"--config={printable(path)}: cannot be read: not a file; it must be a TOML "
                    "file"
                )
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"--config={printable(path)}: cannot be read: {reason}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(
            f"--config={printable(path)}: too large; the file must have at most {MAX_BYTES} bytes"
        )
    return _decoded(path, content), bool(mode & (stat.S_IRGRP | stat.S_IROTH))


def _opened(path: str, flags: int) -> int:
    # Opening a named pipe would wait for a writer.
    return os.open(path, flags | os.O_NONBLOCK)


def _decoded(path: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{printable(path)}:{line}: not UTF-8; the file must be UTF-8 text"
        ) from error


def _value(flag: str, statement: Statement, *, open_to_others: bool) -> Value:
    """The value in the form that the command line has; ValueError says what is allowed."""
    value = statement.value
    if flag not in FLAGS:
        raise ValueError(_unknown(statement.key))
    if flag in SWITCHES:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value
    if flag == "--hash-seed" and open_to_others:
        raise ValueError("the seed is a secret, but others may read this file; set its mode to 600")
    if not isinstance(value, list):
        return [_scalar(value)] if flag in REPEATABLE else _scalar(value)
    if flag in REPEATABLE:
        return [_scalar(item) for item in value]
    if flag in _CSV:
        return ",".join(_scalar(item) for item in value)
    raise ValueError("must be one value, not a list")


def _scalar(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a text or a number, as the flag of that name takes it")  # noqa: TRY004  the operator's mistake
    if isinstance(value, int) and value.bit_length() > _NUMBER_BITS:
        raise ValueError("the number is too large for the flag of that name")
    return str(value)


def _unknown(key: str) -> str:
    names = [flag.removeprefix("--") for flag in sorted(FLAGS)]
    near = difflib.get_close_matches(key.lower().replace("_", "-"), names, 1)
    if near:
        return f"no such key; did you mean {near[0]}?"
    return "no such key; the keys are the flags that maglev0 --help shows, without the dashes"
