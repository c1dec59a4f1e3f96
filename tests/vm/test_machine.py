"""The tests of the CLUSTERIP dataplane, which run inside a Debian 6.1 kernel, each with its
outcome; one boot for all.

What is expected is read from the sources under guest/, so that a machine that dies, hangs or runs
too few of them fails every test that it owes.
"""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.vm.kernel_image import ROOT, kernel_image
from tests.vm.machine import PYTHON, run_in_machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1000)]

GUEST = Path(__file__).parent / "guest"
MACHINE_TIMEOUT_S = (
    900.0  # some 150 s where nothing else runs; there is no KVM, so a busy machine takes far longer
)
CONSOLE_LINES = 40  # of the console, in a report


def expected() -> list[str]:
    """Every test function under guest/, as "file::function"."""
    found = []
    for path in sorted(GUEST.glob("test_*.py")):
        nodes = ast.parse(path.read_text()).body
        found += [
            f"{path.stem}::{node.name}"
            for node in nodes
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
    return found


BAD = {"failure", "error", "skipped"}


class Outcomes:
    """What became of each test function inside, and the last that the machine said."""

    def __init__(self, junit: Path, console: str) -> None:
        self.console = "\n".join(console.splitlines()[-CONSOLE_LINES:])
        self._cases: dict[str, list[ET.Element]] = {}
        if junit.exists():
            for case in ET.parse(junit).iter("testcase"):  # noqa: S314  written by our own run
                module = case.get("classname", "").rpartition(".")[2]
                name = f"{module}::{case.get('name', '').partition('[')[0]}"
                self._cases.setdefault(name, []).append(case)

    def problems(self, function: str) -> list[str]:
        """Why the function did not pass, with all its parameters; empty if it did."""
        cases = self._cases.get(function)
        if not cases:
            return [f"it did not run; the machine's last words:\n{self.console}"]
        return [
            f"{case.get('name')}: {part.tag}\n{part.text or part.get('message')}"
            for case in cases
            for part in case
            if part.tag in BAD
        ]

    def printed(self, function: str) -> str:
        """What the function printed."""
        parts = [
            part.text or ""
            for case in self._cases.get(function, [])
            for part in case
            if part.tag == "system-out"
        ]
        return "\n".join(
            text.partition("\n")[2] for text in parts
        ).strip()  # below pytest's headline


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    results = tmp_path_factory.mktemp("machine")
    junit = results / "junit.xml"
    guest = str(GUEST.relative_to(ROOT))
    console = run_in_machine(
        kernel_image(),
        [
            PYTHON,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
            "-q",
            "-o",
            "junit_logging=system-out",
            f"--junitxml={junit}",
            guest,
        ],
        results,
        MACHINE_TIMEOUT_S,
    )
    return Outcomes(junit, console)


@pytest.mark.parametrize("function", expected())
def test_inside(outcomes: Outcomes, function: str) -> None:
    print(outcomes.printed(function))  # noqa: T201  shown by pytest -rP
    problems = outcomes.problems(function)
    assert not problems, "\n\n".join(problems)


def test_a_function_that_did_not_run_inside_is_a_problem(tmp_path: Path) -> None:
    assert (
        "Kernel panic"
        in Outcomes(tmp_path / "never written", "booting\nKernel panic").problems(
            "test_rule::test_any"
        )[0]
    )


def test_the_sources_promise_tests_of_every_file() -> None:
    assert {name.partition("::")[0] for name in expected()} == {
        path.stem for path in GUEST.glob("test_*.py")
    }
