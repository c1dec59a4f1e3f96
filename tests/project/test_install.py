from __future__ import annotations

from pathlib import Path

from maglev0 import __version__
from tests.project.conftest import ROOT, Installation, run

# systemd's scale is 0 (locked in) to 10. The rest are the network rights that the daemon needs, and
# the uid of root.
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
    run(
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={EXPOSURE_TENTHS_MAX}",
        "--no-pager",
        installed.unit,
    )


def test_the_example_is_a_sound_configuration(installed: Installation) -> None:
    example = installed.settings / "example.toml"
    assert run(installed.command, f"--config={example}", "--check-config") == f"{example}: ok\n"
    mine = str(installed.settings / "maglev0.toml")
    assert mine in example.read_text()
    assert f"--config={mine}\n" in installed.unit.read_text()


def test_the_manual_is_installed_as_man_pages(installed: Installation) -> None:
    topics = (ROOT / "maglev0/manual").glob("*.md")
    pages = [*installed.manual.glob("man*/*")]
    assert {str(page.relative_to(installed.manual)) for page in pages} == {
        "man8/maglev0.8",
        *(f"man7/maglev0-{topic.stem}.7" for topic in topics),
    }
    assert run("groff", "-t", "-man", "-ww", "-Tutf8", "-z", *pages) == ""
    shown = run("groff", "-man", "-Tascii", "-P-cbou", installed.manual / "man8/maglev0.8")
    assert "maglev0 - N Linux servers share one virtual IP" in " ".join(shown.split())


def test_bash_finds_the_completion_by_the_command(installed: Installation) -> None:
    assert (
        run("bash", "-c", f"source '{installed.completion}' && complete -p maglev0")
        == "complete -F _maglev0 maglev0\n"
    )


def test_installing_again_keeps_settings_and_brings_new_code(installed: Installation) -> None:
    mine = installed.settings / "maglev0.toml"
    mine.write_text("mine\n")
    (module,) = installed.prefix.glob("lib/python3*/site-packages/maglev0/__init__.py")
    module.write_text('__version__ = "stale"\n')
    run(*installed.make)
    assert mine.read_text() == "mine\n"
    mine.unlink()
    assert run(installed.command, "--version") == f"maglev0 {__version__}\n"
