from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Installation(NamedTuple):
    """Where one `make install` put things, and how to do it again."""

    prefix: Path
    command: Path
    unit: Path
    settings: Path
    manual: Path
    completion: Path
    make: list[str]


def run(*command: str | Path, cwd: Path = ROOT, status: int = 0) -> str:
    """The command's output, both streams; a failure shows it."""
    done = subprocess.run(
        command,
        cwd=cwd,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as `make build` makes it, from the source archive, which may lack a file."""
    dist = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", dist, ".")
    assert len(list(dist.glob("*.tar.gz"))) == 1
    (built,) = dist.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and its dependencies, without the checkout."""
    home = tmp_path_factory.mktemp("elsewhere")
    venv.create(home, with_pip=True)
    run(home / "bin" / "pip", "install", "--quiet", "--quiet", wheel, cwd=home)
    return home


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """What `make install` installs, in a root of its own."""
    root = tmp_path_factory.mktemp("root")
    places = {
        "PREFIX": root / "opt/maglev0",
        "BINDIR": root / "usr/local/bin",
        "UNITDIR": root / "usr/local/lib/systemd/system",
        "CONFDIR": root / "etc/maglev0",
        "MANDIR": root / "usr/local/share/man",
        "COMPLETIONDIR": root / "usr/local/share/bash-completion/completions",
    }
    make = [
        "make",
        "--no-print-directory",
        "install",
        *(f"{name}={path}" for name, path in places.items()),
    ]
    run(*make)
    return Installation(
        prefix=places["PREFIX"],
        command=places["BINDIR"] / "maglev0",
        unit=places["UNITDIR"] / "maglev0.service",
        settings=places["CONFDIR"],
        manual=places["MANDIR"],
        completion=places["COMPLETIONDIR"] / "maglev0",
        make=make,
    )
