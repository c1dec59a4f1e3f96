from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from maglev0.dataplane.host import notes

VIP = IPv4Address("198.51.100.1")
OTHER = IPv4Address("198.51.100.2")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run = tmp_path / "run"
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(run))
    return run


def test_a_note_is_read_until_it_is_removed(directory: Path) -> None:
    assert notes.read(VIP) is None
    notes.write(VIP, 7)
    notes.write(OTHER, 8)
    assert (notes.read(VIP), notes.read(OTHER)) == (7, 8)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in directory.iterdir())
    notes.remove(VIP)
    notes.remove(VIP)
    assert (notes.read(VIP), notes.read(OTHER)) == (None, 8)


def test_a_note_of_another_run_of_the_kernel_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes.write(VIP, 7)
    monkeypatch.setattr(notes, "boot_id", lambda: "another")
    assert notes.read(VIP) is None


def test_a_note_of_another_namespace_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    notes.write(VIP, 7)
    monkeypatch.setattr(notes, "_namespace", lambda: "another")
    assert notes.read(VIP) is None
    notes.write(VIP, 8)
    monkeypatch.undo()


def test_a_kernel_without_cookies_is_asked_for_the_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_SO_NETNS_COOKIE", 30_000)
    assert notes._namespace() == f"inode{Path('/proc/self/ns/net').stat().st_ino}"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": "x"}', '{"boot": 1, "address_on": 2}'])
def test_a_damaged_note_does_not_count(directory: Path, text: str) -> None:
    notes.write(VIP, 7)
    (path,) = directory.iterdir()
    path.write_text(text)
    assert notes.read(VIP) is None


def test_a_note_that_cannot_be_written_costs_a_warning(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory.write_text("no directory")
    notes.write(VIP, 7)
    (logged,) = [record.getMessage() for record in caplog.records]
    assert logged.endswith(
        ": File exists; the address 198.51.100.1 will stay on this host when maglev0 ends"
    )
