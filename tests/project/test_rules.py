"""The rules of the repository that a machine can judge."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path.relative_to(ROOT) for top in ("maglev0", "tests") for path in (ROOT / top).rglob("*.py")
)
PACKAGE = [path for path in SOURCES if path.parts[0] == "maglev0"]

TOP_LEVEL = {"maglev0", "tests", "pyproject.toml", "README.md", "LICENSE", "Makefile"}
MADE = {
    "build",
    "dist",
    "maglev0.egg-info",
}  # by make; git ignores them and `make clean` deletes them

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
FUNCTION_LINES_MEDIAN = 10

# Modules that owe a test for every branch: all of `core` and `protocol`, and the pure halves
# elsewhere, which say so.
DECISIONS = {
    "config.configuration",
    "config.flag_values",
    "config.health_checks",
    "config.statements",
    "config.zookeeper_access",
    "dataplane.nftables.ruleset",
    "dataplane.verdict",
    "dataplane.xdp.maps",
    "health.checks",
    "operator.explain.bucket_owner",
    "operator.simulate.scenario",
    "telemetry.audit",
    "telemetry.metrics.measures",
    "telemetry.node_report",
    "telemetry.observer",
}
# What reaches outside the process or asks it for the time.
IMPURE = {
    "asyncio",
    "ctypes",
    "iptc",
    "kazoo",
    "os",
    "pathlib",
    "pyroute2",
    "random",
    "secrets",
    "select",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
}


class Function(NamedTuple):
    where: str
    lines: int


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines from `def` to the end, without the docstring, whose length is not limited."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        assert docstring.end_lineno is not None
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def functions(path: Path) -> list[Function]:
    tree = ast.parse((ROOT / path).read_text())
    found = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [Function(f"{path}:{node.lineno} {node.name}", code_lines(node)) for node in found]


def imports(path: Path) -> set[str]:
    """The packages that a module imports, by their first names."""
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text())))
    whole = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    parts = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in whole + parts}


def is_pure(path: Path) -> bool:
    docstring = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
    return re.search(r"^Pure\b|\A.*\bPure\.$", docstring, re.MULTILINE) is not None


def test_the_top_level_holds_what_the_guide_allows_and_no_more() -> None:
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert found - MADE == TOP_LEVEL


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_module_and_no_function_is_too_long(path: Path) -> None:
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= MODULE_LINES_MAX
    assert [function for function in functions(path) if function.lines > FUNCTION_LINES_MAX] == []


def test_functions_are_short_as_a_rule() -> None:
    assert (
        statistics.median(function.lines for path in PACKAGE for function in functions(path))
        < FUNCTION_LINES_MEDIAN
    )


def test_decisions_are_in_modules_that_say_that_they_are_pure() -> None:
    pure = {".".join(path.with_suffix("").parts[1:]) for path in PACKAGE if is_pure(path)}
    assert pure >= DECISIONS


@pytest.mark.parametrize(
    "path", [path for path in PACKAGE if path.parts[1] in {"core", "protocol"}], ids=str
)
def test_core_and_protocol_are_pure_by_their_place(path: Path) -> None:
    assert imports(path) & IMPURE == set()


@pytest.mark.parametrize("path", [path for path in PACKAGE if is_pure(path)], ids=str)
def test_what_says_that_it_is_pure_reaches_nothing_outside(path: Path) -> None:
    assert imports(path) & IMPURE == set()


def test_no_drawer_for_leftovers() -> None:
    assert [
        path for path in SOURCES if path.stem in {"utils", "util", "helpers", "misc", "common"}
    ] == []
