"""Dispatch: runs the daemon, or the command that the first word names."""

from __future__ import annotations

import importlib
import sys

from maglev0.config import command_line
from maglev0.config.command_line import CommandLine
from maglev0.core.text import printable
from maglev0.errors import ConfigError, MaglevError
from maglev0.operator import command
from maglev0.operator.commands import COMMANDS


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status; every error is one line on stderr."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] in COMMANDS:
        try:
            return int(importlib.import_module(COMMANDS[arguments[0]]).main(arguments[1:]))
        except BrokenPipeError:
            return command.reader_gone()
    try:
        reading = _examined(arguments)
        if reading.check_only:
            return _report(reading)
        config = command_line.config_of(reading)
        from maglev0.daemon import supervisor  # noqa: PLC0415  --help and a bad flag need none of its libraries

        return supervisor.run(config, lambda: command_line.read(arguments))
    except MaglevError as error:
        sys.stderr.write(f"maglev0: {error}\n")
        return error.exit_status


def _examined(arguments: list[str]) -> CommandLine:
    """Examine the command line; the reader of the output of --help may be gone."""
    try:
        try:
            return command_line.examine(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        raise SystemExit(command.reader_gone()) from None


def _report(reading: CommandLine) -> int:
    sys.stderr.writelines(f"{error}\n" for error in reading.errors)
    if reading.errors:
        return ConfigError.exit_status
    sys.stdout.write(f"{printable(reading.file or 'command line')}: ok\n")
    return 0
