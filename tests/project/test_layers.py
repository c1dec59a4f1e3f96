"""Each package imports only lower ones; `dataplane` and `coordination` do not know each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "maglev0"

# From the bottom to the top; `maglev0/manual` holds no module.
LAYERS = (
    "errors",
    "core",
    "protocol",
    "config",
    "runtime",
    "coordination",
    "dataplane",
    "health",
    "telemetry",
    "daemon",
    "operator",
    "lab",
    "main",
    "__main__",
)
STRANGERS = {("dataplane", "coordination"), ("coordination", "dataplane")}

RANK = {package: rank for rank, package in enumerate(LAYERS)}
MODULES = sorted(ROOT.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(("maglev0", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


NAMES = {dotted(path) for path in MODULES}


def package(module: str) -> str | None:
    """The package that a module belongs to; `None` for `maglev0` itself, which is below all."""
    return module.split(".")[1] if "." in module else None


def imported(path: Path) -> set[str]:
    """The modules of this package that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.partition(".")[0] == "maglev0"
        ):
            found |= {
                full if (full := f"{node.module}.{name.name}") in NAMES else node.module
                for name in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.partition(".")[0] == "maglev0"}
    return found


def is_upward(importer: str, target: str) -> bool:
    above, below = package(importer), package(target)
    if below is None or above == below:
        return False
    return above is None or (above, below) in STRANGERS or RANK[below] > RANK[above]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_below_its_package(path: Path) -> None:
    module = dotted(path)
    assert package(module) in {None, *RANK}
    assert sorted(target for target in imported(path) if is_upward(module, target)) == []


def test_an_import_that_points_up_is_found() -> None:
    assert is_upward("maglev0.core.table", "maglev0.daemon.supervisor")
    assert is_upward("maglev0.dataplane.select", "maglev0.coordination.session")
    assert not is_upward("maglev0.daemon.supervisor", "maglev0.core.table")
