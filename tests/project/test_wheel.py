from __future__ import annotations

import zipfile
from pathlib import Path

from maglev0 import __version__
from tests.project.conftest import ROOT, run

IMPORT_ALL = """
import importlib, pkgutil, maglev0
left_out = ("__main__", ".xdp.build", ".simulate.drawing", ".simulate.plot")
modules = pkgutil.walk_packages(maglev0.__path__, "maglev0.")
names = [module.name for module in modules if not module.name.endswith(left_out)]
for name in names:
    importlib.import_module(name)
print(maglev0.__file__, *names)
"""


def test_the_command_runs_where_the_checkout_is_not(elsewhere: Path) -> None:
    assert (
        run(elsewhere / "bin" / "maglev0", "--version", cwd=elsewhere) == f"maglev0 {__version__}\n"
    )
    assert (
        run(elsewhere / "bin" / "python", "-m", "maglev0", "--version", cwd=elsewhere)
        == f"maglev0 {__version__}\n"
    )


def test_every_module_is_in_the_wheel_and_can_be_imported(elsewhere: Path) -> None:
    where, *names = run(elsewhere / "bin" / "python", "-c", IMPORT_ALL, cwd=elsewhere).split()
    assert Path(where).is_relative_to(elsewhere)
    sources = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for path in (ROOT / "maglev0").rglob("*.py")
    }
    # They import setuptools and matplotlib, which an installation need not have.
    unneeded = {
        "maglev0.dataplane.xdp.build",
        "maglev0.operator.simulate.drawing",
        "maglev0.operator.simulate.plot",
    }
    wanted = (
        {name.removesuffix(".__init__") for name in sources}
        - {"maglev0", "maglev0.__main__", "maglev0.lab.chaos.__main__"}
        - unneeded
    )
    assert set(names) == wanted


def test_the_wheel_brings_the_service_unit_and_types_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "maglev0/py.typed",
        *(f"maglev0/manual/{page.name}" for page in (ROOT / "maglev0/manual").glob("*.md")),
        "maglev0/runtime/systemd/maglev0.service",
        "maglev0/runtime/systemd/example.toml",
        "maglev0/dataplane/xdp/early.bpf.o",
    } <= set(names)
    assert {name.partition("/")[0] for name in names} == {
        "maglev0",
        f"maglev0-{__version__}.dist-info",
    }
