from __future__ import annotations

import json
import stat
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from maglev0.config.configuration import ZooKeeperAddress
from maglev0.coordination.session import Identity
from maglev0.coordination.session_file import SavedSession, SessionFile, kernel_identity
from tests.support.settings import AGREED

VIP = IPv4Address("198.51.100.1")
ZK = ZooKeeperAddress("zk1:2181", "/a")
LEFT = SavedSession(Identity(-0x100000000000000, b"\x00\xffsixteen bytes..", 4.0), AGREED)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "run"
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{place}:/elsewhere")
    return place


def file(kernel: str = "this", zk: ZooKeeperAddress = ZK) -> SessionFile:
    return SessionFile(VIP, zk, kernel)


def test_what_was_left_is_found_by_the_next_for_root_alone(directory: Path) -> None:
    file().write(LEFT)
    assert file().read(4.0) == LEFT
    (path,) = directory.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_what_was_left_is_no_use_to_another_kernel_cluster_or_timeout() -> None:
    file().write(LEFT)
    assert file(kernel="another").read(4.0) is None
    assert file(zk=replace(ZK, chroot="/b")).read(4.0) is None
    assert file().read(5.0) is None


def test_another_vip_has_another_file() -> None:
    file().write(LEFT)
    assert SessionFile(IPv4Address("198.51.100.2"), ZK, "this").read(4.0) is None


def test_a_later_session_replaces_it_and_nothing_is_left_in_the_end(directory: Path) -> None:
    ours = file()
    ours.write(LEFT)
    later = LEFT._replace(session=LEFT.session._replace(id=7))
    ours.write(later)
    assert file().read(4.0) == later
    ours.remove()
    ours.remove()
    assert list(directory.iterdir()) == []
    assert file().read(4.0) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"session": "x"}', "\udcff"], ids=range(6))
def test_what_makes_no_sense_is_passed_over(directory: Path, text: str) -> None:
    file().write(LEFT)
    (path,) = directory.iterdir()
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert file().read(4.0) is None


@pytest.mark.parametrize("key", ["session", "password", "timeout_ms", "settings", "kernel", "zk"])
def test_no_part_of_it_may_be_missing(directory: Path, key: str) -> None:
    file().write(LEFT)
    (path,) = directory.iterdir()
    record = json.loads(path.read_text())
    del record[key]
    path.write_text(json.dumps(record))
    assert file().read(4.0) is None


def test_a_place_that_cannot_be_written_to_costs_a_warning(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory.write_text("no directory")
    file().write(LEFT)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "File exists; a restart of this daemon will move its buckets"
    ]


def test_the_kernel_is_known_by_its_run_and_its_network() -> None:
    boot, _, namespace = kernel_identity().partition("/")
    assert len(boot) == 36
    assert int(namespace) > 0
