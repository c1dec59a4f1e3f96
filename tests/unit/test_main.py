"""The real command, in processes of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import maglev0
from maglev0.config import command_line
from maglev0.operator.commands import COMMANDS
from tests.support.patience import PATIENCE_S
from tests.support.refusals import (
    CLUSTERIP_WITHOUT_RIGHT,
    COMMAND,
    NFTABLES_WITHOUT_RIGHT,
    NO_INTERFACE,
    NO_MODULE,
    NO_ZOOKEEPER,
    REFUSALS,
    ROOT,
    Answer,
    Refusal,
    ran,
    refused,
)


def assert_refused(refusal: Refusal, stdout: str | None = None) -> None:
    answer = refused(refusal)
    assert (answer.status, answer.stderr.count("\n")) == (refusal.status, 1)
    assert stdout in (None, answer.stdout)
    assert answer.stderr.startswith("maglev0: ")
    assert answer.stderr[:-1].isprintable()
    assert refusal.expected in answer.stderr


@pytest.mark.parametrize(
    "refusal", REFUSALS, ids=[ascii(str(refusal))[1:80] for refusal in REFUSALS]
)
def test_what_is_refused(refusal: Refusal) -> None:
    assert_refused(refusal, stdout="")


@pytest.mark.kernel
@pytest.mark.parametrize("refusal", [NFTABLES_WITHOUT_RIGHT, CLUSTERIP_WITHOUT_RIGHT], ids=str)
def test_a_dataplane_without_the_right_to_it_says_which_is_missing(refusal: Refusal) -> None:
    assert_refused(refusal)


@pytest.mark.kernel
def test_a_dataplane_that_this_kernel_lacks_says_what_is_missing() -> None:
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    assert (int(major), int(minor)) >= (6, 3), (
        "this test is about the kernels that have lost CLUSTERIP"
    )
    assert_refused(NO_MODULE)


@pytest.mark.kernel
def test_an_interface_that_is_not_there_may_come_later() -> None:
    assert_refused(NO_INTERFACE)


# The help.


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_help_is_the_text_that_is_parsed(flag: str) -> None:
    assert command_line.HELP
    assert ran([flag]) == Answer(0, command_line.HELP.strip("\n") + "\n", "")


DEFAULTS = {
    "--my-id=<ID>": "1",
    "--total-nodes=<N>": "5",
    "--zk=<ZK>": "localhost:2181",
    "--cluster-ip=<IP>": "198.51.100.1",
    "--interface=<IF>": None,
    "--dataplane=<NAME>": "auto",
    "--cluster-mac=<MAC>": None,
    "--hash-mode=<MODE>": "sourceip",
    "--hash-seed=<SEED>": None,
    "--session-timeout=<S>": "4",
    "--weight=<W>": "1",
    "--drain-timeout=<S>": "30",
    "--xdp=<MODE>": "auto",
    "--zk-loss=<WHAT>": "release",
    "--check=<CHECK>": None,
    "--check-timing=<T>": "2,1,2,3",
    "--notify=<PROGRAM>": None,
    "--metrics=<ADDR:PORT>": None,
    "--zk-auth=<AUTH>": None,
    "--zk-ca=<FILE>": None,
    "--zk-cert=<FILE>": None,
    "--zk-key=<FILE>": None,
    "--config=<FILE>": None,
    "--check-config": None,
    "--dry-run": None,
    "-v, --verbose": None,
    "-h, --help": None,
    "--version": None,
}


def test_the_help_names_every_flag_with_its_default() -> None:
    text = re.sub(r"\n {26}", " ", ran(["--help"]).stdout)
    lines = [line.strip() for line in text.splitlines()]
    options = dict(re.split(" {2,}", line, maxsplit=1) for line in lines if line.startswith("-"))
    assert options.keys() == DEFAULTS.keys()
    for flag, default in DEFAULTS.items():
        found = re.search(r"\[default: (.*)\]$", options[flag])
        assert (found[1] if found else None) == default


def test_the_version() -> None:
    assert ran(["--version"]) == Answer(0, f"maglev0 {maglev0.__version__}\n", "")


def test_the_help_names_every_subcommand_and_each_has_a_help_of_its_own() -> None:
    text = ran(["--help"]).stdout
    assert re.findall(r"^  maglev0 ([a-z]+) {2,}", text, re.MULTILINE) == [*COMMANDS]
    for name in COMMANDS:
        answer = ran([name, "--help"])
        assert (answer.status, answer.stderr, answer.stdout.startswith(f"maglev0 {name}: ")) == (
            0,
            "",
            True,
        )


# --check-config.


def test_a_sound_configuration_is_called_so(tmp_path: Path) -> None:
    file = tmp_path / "maglev0.toml"
    file.write_text('my-id = 3\ncluster-ip = ["198.51.100.1", "198.51.100.2"]\n')
    assert ran([f"--config={file}", "--check-config"]) == Answer(0, f"{file}: ok\n", "")
    assert ran(["--my-id=3", "--check-config"]) == Answer(0, "command line: ok\n", "")


def test_an_unsound_one_is_told_all_its_errors(tmp_path: Path) -> None:
    file = tmp_path / "maglev0.toml"
    file.write_text("my-id = 0\n\nweigth = 3\n")
    answer = ran([f"--config={file}", "--check-config", "--xdp=maybe"])
    assert (answer.status, answer.stdout) == (2, "")
    assert answer.stderr.splitlines() == [
        f'{file}:1: my-id: "0": must be a whole number from 1 to 1048576',
        f"{file}:3: weigth: no such key; did you mean weight?",
        "--xdp=maybe: must be auto, native, generic or off",
    ]


# Two daemons.


@contextmanager
def network_namespace() -> Iterator[tuple[str, ...]]:
    """A network namespace with an interface, d0; yields the words that run a command in it."""
    script = (
        "ip link add d0 type veth peer d1 && ip link set d0 up && ip link set d1 up && echo ready "
        "&& exec cat"
    )
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
        holder.communicate(timeout=PATIENCE_S)


@contextmanager
def daemon(prefix: Sequence[str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon that has claimed its VIP and looks for ZooKeeper, where there is none."""
    command = [*prefix, *COMMAND, NO_ZOOKEEPER, "--interface=d0", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert " dataplane nftables: " in process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.mark.kernel
def test_a_second_daemon_for_one_vip_on_a_host_is_refused() -> None:
    second = (NO_ZOOKEEPER, "--interface=d0")
    with network_namespace() as inside:
        with daemon(inside) as first:
            # The prefix ends in an exec, so the daemon has the pid that was started.
            answer = ran(second, inside)
            told = (
                "maglev0: another maglev0 serves 198.51.100.1 on this host already (pid "
                f"{first.pid} of uid 0): stop it first\n"
            )
            assert answer == Answer(1, "", told)
            with daemon(inside, "--cluster-ip=198.51.100.2"):
                pass
        # The first one was killed: its claim went with it.
        with daemon(inside):
            pass


@pytest.mark.kernel
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_never_found_zookeeper_ends_when_told_to(number: signal.Signals) -> None:
    with network_namespace() as inside, daemon(inside) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["status", "--help"], ["lab", "--help"]], ids=str
)
def test_a_reader_that_went_away_is_no_traceback(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "maglev0", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=20,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
