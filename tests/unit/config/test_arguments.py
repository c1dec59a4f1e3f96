"""What the error of a command line that cannot be parsed names, and what it never repeats."""

from __future__ import annotations

import shlex

import pytest

from maglev0.config import command_line
from maglev0.config.arguments import parse
from maglev0.errors import ConfigError
from maglev0.operator import cluster_address
from maglev0.operator.commands import COMMANDS

TEXT = f"""maglev0 ask: a command.

Usage:
  maglev0 ask [--size=<N>]... [options] [WORD]

Options:
  --size=<N>              a size
  -n <N>                  a number
  -q, --quiet             less
{cluster_address.OPTIONS}  -h, --help              show this text
"""
END = "; maglev0 ask --help shows what is allowed"
SECRET = "topsecret9"  # noqa: S105
CUT = "cannot read the command line: "


def error_of(line: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(TEXT, shlex.split(line), "ask")
    text = str(caught.value)
    assert text.endswith(END)
    assert text.isprintable()
    return text.removesuffix(END)


def daemon_error_of(line: str) -> str:
    with pytest.raises(ConfigError) as caught:
        command_line.read(shlex.split(line))
    return str(caught.value)


def test_what_fits_is_returned() -> None:
    found = parse(TEXT, ["--size=1", "--size", "2", "-n", "-5", "-q", "word"], "ask")
    assert (found["--size"], found["-n"], found["--quiet"], found["WORD"]) == (
        ["1", "2"],
        "-5",
        True,
        "word",
    )


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("--sise=1", f"there is no flag --sise, did you mean --size?; {CUT}ask --sise=…"),
        ("-q --wat more", f"there is no flag --wat; {CUT}ask -q --wat …"),
        ("-quiet=1", f"there is no flag -q, did you mean --quiet?; {CUT}ask -q=…"),
        ("-x", f"there is no flag -x; {CUT}ask -x"),
        ("--=1", f"there is no flag --; {CUT}ask --=…"),
        ("--s=1 --s=2 a b", f"{{unclear}}; {CUT}ask --s=1 --s=2 a b"),
        ("--zk-c=1", f"--zk-c is not unique: --zk-ca or --zk-cert; {CUT}ask --zk-c=…"),
        ("--size", f"--size requires a value; {CUT}ask --size"),
        ("-n", f"-n requires a value; {CUT}ask -n"),
        ("-qn5 -q", f"-q is given twice; {CUT}ask -qn5 -q"),
        ("--json=1", f"--json takes no value; {CUT}ask --json=1"),
        ("--zk a --zk b", f"--zk is given twice; {CUT}ask --zk a --zk b"),
        ("-n -5 one - two", f"{{unclear}}; {CUT}ask -n -5 one - two"),
        ("-- one --two", f"{{unclear}}; {CUT}ask -- one --two"),
    ],
)
def test_the_fault_is_named(line: str, error: str) -> None:
    assert error_of(line) == error.replace(
        "{unclear}", "a word is missing, or there is one too many"
    )


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (f"'--zk-auth=digest:me:my {SECRET}' one two", "ask --zk-auth=…"),
        (f"--zk-auth=digest:me:my {SECRET} two", "ask --zk-auth=…"),
        (f"--zk-auth 'my {SECRET}' one two", "ask --zk-auth=…"),
        (f"--zk-auth my {SECRET} two", "ask --zk-auth=…"),
        (f"--json --zk-a=my --{SECRET}", "ask --json --zk-auth=…"),
        (f"--zk-auth=my -{SECRET}", "ask --zk-auth=…"),
        (f"--zk-auth=my --zk=a --zk={SECRET}", "ask --zk-auth=…"),
        (f"--zk-auht=digest:me:{SECRET}", "ask --zk-auht=…"),
        (f"--zk-auth{SECRET}", "ask --zk-auth…"),
        (f"--zk-auht my {SECRET}", "ask --zk-auht …"),
        (f"-zk-au={SECRET}", "ask -z=…"),
        (f"-p{SECRET}", "ask -p…"),
        (f"--z=digest:me:{SECRET}", "ask --z=…"),
        (f"--hash-seed='my {SECRET}'", "ask --hash-seed=…"),
        (f"--zk --zk-auth={SECRET} {SECRET} {SECRET}", "ask --zk …"),
        (f"one http://me:{SECRET}@host/ {SECRET}", "ask one …"),
        (f"one --zk=http://me:my{SECRET} {SECRET}@host/", "ask one --zk=…"),
    ],
)
def test_what_may_be_a_secret_is_not_repeated_nor_what_follows(line: str, shown: str) -> None:
    text = error_of(line)
    assert SECRET not in text
    assert text.partition(CUT)[2] == shown


def test_a_fault_after_a_secret_is_named_if_its_name_is_known() -> None:
    assert error_of("--zk-auth=digest:me:file --zk").startswith("--zk requires a value; ")
    assert error_of("--zk-auth=digest:me:file --oops").startswith(
        "a flag after --zk-auth is unknown; "
    )


@pytest.mark.parametrize(
    "line",
    [
        f"'--hash-seed=my {SECRET}' --oops",
        f"'--zk-auth=digest:me:my {SECRET}' --oops",
        f"--zk-auth digest:me:my {SECRET}",
        f"--hash={SECRET}",
        f"--check=http://me:{SECRET}@host/ --oops",
        f"--check=http://me:my{SECRET} too@host/",
    ],
)
def test_the_daemon_repeats_no_secret(line: str) -> None:
    text = daemon_error_of(line)
    assert SECRET not in text
    assert text.endswith("; maglev0 --help shows what is allowed")


def test_a_url_without_a_password_is_shown() -> None:
    line = "--check=http://[::1]:8080/up --check=http://web:80 --check=https://web/a:b"
    assert f"{CUT}{line} oops;" in daemon_error_of(f"{line} oops")


def test_a_word_that_resembles_a_command_gets_a_suggestion() -> None:
    assert daemon_error_of("statsu").endswith(
        f"{CUT}statsu; did you mean maglev0 status? maglev0 --help shows what is allowed"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_repeats_a_secret(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import import_module  # noqa: PLC0415

    words = [f"--zk-auth=digest:me:my {SECRET}", SECRET, "--oops"]
    assert import_module(COMMANDS[name]).main(words) == ConfigError.exit_status
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert SECRET not in shown.err
    assert shown.err.endswith(f"; maglev0 {name} --help shows what is allowed\n")
