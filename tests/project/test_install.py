from __future__ import annotations

import re
from pathlib import Path

from maglev0 import __version__, cli
from tests.project.conftest import Installation, run

# systemd's scale is 0 (locked in) to 10; what is left are the network rights that are the daemon's whole purpose, and root's uid.
EXPOSURE_TENTHS_MAX = 25


def test_the_command_is_on_the_path(installed: Installation) -> None:
    assert run(installed.command, "--version", cwd=Path("/")) == f"maglev0 {__version__}\n"


def test_the_service_sees_its_python(installed: Installation) -> None:
    # ProtectHome=yes in the unit hides these.
    assert not (installed.prefix / "bin/python").resolve().is_relative_to("/root")
    assert not (installed.prefix / "bin/python").resolve().is_relative_to("/home")


def test_systemd_accepts_the_unit(installed: Installation) -> None:
    assert run("systemd-analyze", "verify", "--man=no", installed.unit) == ""


def test_the_unit_is_locked_in(installed: Installation) -> None:
    run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_TENTHS_MAX}", "--no-pager", installed.unit)


def test_the_example_settings_start_a_daemon(installed: Installation) -> None:
    text = (installed.settings / "example.conf").read_text()
    (options,) = re.findall(r'^MAGLEV0_OPTIONS="([^"]*)"$', text, re.MULTILINE)
    config = cli.read(["--cluster-ip=198.51.100.7", *options.split()])
    assert str(config.vip) == "198.51.100.7"


def test_installing_again_keeps_settings_and_brings_new_code(installed: Installation) -> None:
    mine = installed.settings / "198.51.100.7.conf"
    mine.write_text("mine\n")
    (module,) = installed.prefix.glob("lib/python3*/site-packages/maglev0/__init__.py")
    module.write_text('__version__ = "stale"\n')
    run(*installed.make)
    assert mine.read_text() == "mine\n"
    assert run(installed.command, "--version") == f"maglev0 {__version__}\n"
