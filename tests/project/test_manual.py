"""The manual names what exists: modules, pages and files of this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "maglev0" / "manual"
PAGES = sorted(MANUAL.glob("*.md"))
PACKAGES = {path.name for path in (ROOT / "maglev0").iterdir() if (path / "__init__.py").exists()}


def exists(dotted: str) -> bool:
    """Whether there is such a module or package, or a name inside one."""
    path = ROOT / "maglev0" / dotted.replace(".", "/")
    if path.with_suffix(".py").exists() or path.is_dir():
        return True
    module = path.parent.with_suffix(".py")
    return module.exists() and re.search(rf"\b{path.name}\b", module.read_text()) is not None


def test_the_architecture_names_modules_that_exist() -> None:
    text = (MANUAL / "architecture.md").read_text()
    named = set(re.findall(rf"`((?:{'|'.join(PACKAGES)})(?:\.[a-z_]+)+)`", text))
    assert len(named) > 20
    assert sorted(name for name in named if not exists(name)) == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160
