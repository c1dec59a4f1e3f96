"""Every unit, command and flag that the doctor's texts name exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import maglev0
from maglev0.operator.commands import COMMANDS
from maglev0.operator.shell import help_text

PACKAGE = Path(maglev0.__file__).parent
VALUE = "…"  # in a text, for what the program puts in
OUR_UNITS = {unit.stem for unit in (PACKAGE / "runtime" / "systemd").glob("*.service")}
OTHER_UNITS = {
    "zookeeper",
    *("sleep.target", "suspend.target", "hibernate.target", "hybrid-sleep.target"),
}
# What `filters/legacy.py` reads of iptables.
IPTABLES_FLAGS = {"--comment", "--notrack"}


def texts(path: Path) -> Iterator[str]:
    """The strings of a module, docstrings excluded, with `VALUE` for each value in an f-string."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values
            )
        elif isinstance(node, ast.Constant) and id(node) not in docstrings | parts:
            yield str(node.value)


TEXTS = [
    (path.relative_to(PACKAGE).as_posix(), text)
    for path in sorted((PACKAGE / "operator" / "doctor").rglob("*.py"))
    for text in texts(path)
]


def named(pattern: str) -> list[tuple[str, str]]:
    """Where the doctor's texts match, and what they name there."""
    return [(where, word) for where, text in TEXTS for word in re.findall(pattern, text)]


def test_every_unit_exists() -> None:
    verbs = r"(?:systemctl (?:start|stop|restart|reload|status|mask|unmask)|journalctl -[a-z]*u)"
    found = [
        (where, unit.strip("',;:()"))
        for where, units in named(rf"{verbs}((?: [\w@.*'{VALUE}-]+)+)")
        for unit in units.split()
    ]
    assert len(found) >= 8
    assert [unit for unit in found if unit[1] not in OUR_UNITS | OTHER_UNITS] == []


def test_every_command_exists() -> None:
    found = named(r"(?:^|[:,;] |or )maglev0 ([a-z]+)")
    assert {command for _where, command in found} >= {"doctor", "status", "undrain", "weight"}
    assert [command for command in found if command[1] not in COMMANDS] == []


def test_every_flag_exists() -> None:
    helps = [help_text.daemon(), *help_text.commands().values()]
    flags = {name for help_ in helps for option in help_.options for name in option.names}
    found = named(r"(?<![\w-])(--[a-z][a-z-]*)")
    assert len(found) >= 20
    assert [flag for flag in found if flag[1] not in flags | IPTABLES_FLAGS] == []


@pytest.mark.parametrize("old", ["maglev0@", "maglev0*"])
def test_no_text_names_the_units_of_former_versions(old: str) -> None:
    assert [where for where, text in TEXTS if old in text] == []
