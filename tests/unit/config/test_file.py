from __future__ import annotations

import os
from pathlib import Path

import pytest

from maglev0.config import command_line
from maglev0.config import file as configfile
from maglev0.config.configuration import FLAGS
from maglev0.errors import ConfigError

ROOT = Path(__file__).parents[3]
FULL = """\
my-id = 2
total-nodes = 65537
zk = ["zk1:2181", "zk2/web"]
cluster-ip = [
  "198.51.100.1",
  "198.51.100.2",
]
session-timeout = 1.5
hash-seed = 0x10
check = ["tcp:80", "file:/run/up"]
check-timing = [1, 0.5, 2, 3]
metrics = "127.0.0.1:9105"
notify = "/bin/true"
verbose = true
dry-run = false
"""
SAME = [
    "--my-id=2",
    "--total-nodes=65537",
    "--zk=zk1:2181,zk2/web",
    "--cluster-ip=198.51.100.1,198.51.100.2",
    "--session-timeout=1.5",
    "--hash-seed=16",
    "--check=tcp:80",
    "--check=file:/run/up",
    "--check-timing=1,0.5,2,3",
    "--metrics=127.0.0.1:9105",
    "--notify=/bin/true",
    "--verbose",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "maglev0.toml"
    path.touch(0o600)
    return path


def errors(file: Path, text: str, *flags: str) -> list[str]:
    """What is wrong, without the file's name."""
    file.write_text(text)
    reading = command_line.examine([f"--config={file}", *flags])
    assert (reading.config is None) == bool(reading.errors)
    return [error.removeprefix(f"{file}:") for error in reading.errors]


def test_the_file_says_what_flags_say(file: Path) -> None:
    file.write_text(FULL)
    assert command_line.read([f"--config={file}"]) == command_line.read(SAME)


def test_flags_win(file: Path) -> None:
    file.write_text(FULL)
    config = command_line.read(
        [
            f"--config={file}",
            "--my-id=3",
            "--check=tcp:81",
            "--cluster-ip=198.51.100.9",
            "--dry-run",
        ]
    )
    assert (
        config.my_id,
        [str(check) for check in config.checks],
        [str(vip) for vip in config.vips],
    ) == (3, ["tcp:81"], ["198.51.100.9"])
    assert (config.dry_run, config.verbose, config.weight) == (True, True, 1)


def test_an_empty_flag_is_not_one_left_out(file: Path) -> None:
    assert errors(file, 'interface = "eth0"\n', "--interface=")[0].startswith(
        "--interface=: must be the name of a network interface"
    )


def test_what_is_said_is_said_again_when_the_file_has_changed(file: Path) -> None:
    argv = [f"--config={file}", "--my-id=4"]
    file.write_text("weight = 2\n")
    assert command_line.read(argv).weight == 2
    file.write_text("weight = 3\n")
    assert command_line.read(argv).weight == 3


def test_values_for_other_commands(file: Path) -> None:
    file.write_text(FULL)
    values = configfile.file_values(str(file))
    assert values["--zk"] == "zk1:2181,zk2/web"
    assert values["--cluster-ip"] == "198.51.100.1,198.51.100.2"
    assert (values["--check"], values["--verbose"]) == (["tcp:80", "file:/run/up"], True)
    file.write_text("my-id = 1\nno = 2\nnot = 3\n")
    with pytest.raises(ConfigError, match=r":2: no: no such key; "):
        configfile.file_values(str(file))


def test_one_check_needs_no_list(file: Path) -> None:
    file.write_text('check = "tcp:80"\n')
    assert configfile.file_values(str(file)) == {"--check": ["tcp:80"]}


def test_where_others_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configfile, "DEFAULT_PATH", str(tmp_path / "maglev0.toml"))
    assert configfile.default_path() is None
    (tmp_path / "maglev0.toml").touch()
    assert configfile.default_path() == str(tmp_path / "maglev0.toml")


WRONG = """\
# all at once
my-id = 0
cluster-ip = ["198.51.100.1",
  "198.51.100.300"]
my_id = 3
interface = eth0
check = [
  "tcp:80",
  "tcp:99999",
  "tcp:80",
]
verbose = 1
notify = 2020-01-01
drain-timeout = [1]
zk-auth = "geheim"
zk-key = "/key"
xdp = "no"
weight = 99999999999999999999999
help = true
"""
ADDRESSES = "must be an IPv4 address, as 198.51.100.1 or 198.51.100.1,198.51.100.2"
TOLD = [
    '2: my-id: "0": must be a whole number from 1 to 1048576',
    f"3: cluster-ip: \"198.51.100.1,198.51.100.300\": '198.51.100.300' {ADDRESSES}",
    "5: my_id: no such key; did you mean my-id?",
    (
        "6: interface: not TOML, invalid value at column 13; each line must be key = value, with "
        'text in quotes as in interface = "eth0"'
    ),
    '9: check: "tcp:99999": the port must be from 1 to 65535, as tcp:80 or http://:8080/health',
    '10: check: "tcp:80": given twice; each health check must be different',
    "12: verbose: must be true or false",
    "13: notify: must be a text or a number, as the flag of that name takes it",
    "14: drain-timeout: must be one value, not a list",
    '15: zk-auth: "…": must be digest:USER:PASSWORD-FILE or sasl:USER:PASSWORD-FILE',
    '17: xdp: "no": must be auto, native, generic or off',
    "18: weight: the number is too large for the flag of that name",
    "19: help: no such key; the keys are the flags that maglev0 --help shows, without the dashes",
    "--zk-loss=maybe: must be release or hold",
]


def test_everything_wrong_is_told_at_once_with_its_line(file: Path) -> None:
    found = errors(file, WRONG, "--zk-loss=maybe")
    assert [error[: len(told)] for error, told in zip(found, TOLD, strict=True)] == TOLD
    assert "geheim" not in "".join(found)


def test_the_first_is_what_a_daemon_ends_with(file: Path) -> None:
    file.write_text(WRONG)
    with pytest.raises(ConfigError) as caught:
        command_line.read([f"--config={file}"])
    assert (
        str(caught.value)
        == f"{file}:{TOLD[0]} (and {len(TOLD) - 2} more, which --check-config shows)"
    )


def test_flags_that_do_not_go_together_are_found_across_file_and_command_line(file: Path) -> None:
    (error,) = errors(file, 'zk-key = "/key"\n', "--zk-ca=/ca")
    assert error.startswith('1: zk-key: "/key": --zk-key needs --zk-cert')
    (error,) = errors(file, "total-nodes = 5\n", "--my-id=6")
    assert error == "--my-id=6: must be a whole number from 1 to 5 (--total-nodes)"
    (error,) = errors(file, "\nmy-id = 6\n", "--total-nodes=5")
    assert error == '2: my-id: "6": must be a whole number from 1 to 5 (--total-nodes)'


def test_a_seed_is_for_its_owner_alone(file: Path) -> None:
    assert errors(file, "hash-seed = 4711\n") == []
    file.chmod(0o640)
    assert errors(file, "\nhash-seed = 4711\n") == [
        "2: hash-seed: the seed is a secret, but others may read this file; set its mode to 600"
    ]
    assert errors(file, "\nweight = 2\n") == []


def refused(path: Path | str) -> str:
    with pytest.raises(ConfigError) as caught:
        command_line.read([f"--config={path}"])
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix(f"--config={path}: ").removeprefix(f"{path}:")


def test_files_that_cannot_be_read(file: Path, tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == "cannot be read: No such file or directory"
    assert refused(tmp_path) == "cannot be read: Is a directory"
    assert refused("") == "cannot be read: No such file or directory"
    assert "cannot be read: " in refused("a\0b")
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "cannot be read: not a file; it must be a TOML file"
    assert refused("/dev/zero") == "cannot be read: not a file; it must be a TOML file"
    file.write_bytes(b"# " + b"a" * configfile.MAX_BYTES)
    assert refused(file) == f"too large; the file must have at most {configfile.MAX_BYTES} bytes"
    file.write_bytes(b"my-id = 1\ninterface = '\xff'\n")
    assert refused(file) == "2: not UTF-8; the file must be UTF-8 text"


def test_every_key_takes_what_its_flag_takes_and_no_table_or_date(file: Path) -> None:
    for flag in FLAGS:
        key = flag.removeprefix("--")
        for value in ("2020-01-01", "{a = 1}", "[[1]]", "[{a = 1}]"):
            (error,) = errors(file, f"\n{key} = {value}\n")
            assert error.startswith(f"2: {key}: ") or " is a table; " in error
        for value in ("nan", "''", '"\\u001b"'):
            assert all(
                error.startswith(f"2: {key}: ") and error.isprintable()
                for error in errors(file, f"\n{key} = {value}\n")
            )


def test_the_example_is_a_sound_configuration() -> None:
    config = command_line.read([f"--config={ROOT / 'maglev0/runtime/systemd/example.toml'}"])
    assert config.zk.hosts == "zk1:2181,zk2:2181,zk3:2181"
