"""The real command, in processes of its own.

`python -m tests.unit.test_main` prints the table of what it refuses.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

import maglev0
from maglev0.config import command_line
from maglev0.operator.commands import COMMANDS
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-B", "-m", "maglev0")
NO_ZOOKEEPER = "--zk=127.0.0.1:1"
# Another user, who may read whatever directory the interpreter lies in, and nothing else.
NOBODY = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
)


class Answer(NamedTuple):
    status: int
    stdout: str
    stderr: str


def ran(arguments: Sequence[str], prefix: Sequence[str] = ()) -> Answer:
    """What the command answered within a bound."""
    done = subprocess.run(
        [*prefix, *COMMAND, *arguments],
        cwd=ROOT,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())


class Refusal(NamedTuple):
    """What was given, part of what must be printed, and the status."""

    arguments: tuple[str, ...]
    told: str
    status: int = 2
    prefix: tuple[str, ...] = ()
    file: str | None = None

    def __str__(self) -> str:
        words = (
            *self.prefix[:1],
            "maglev0",
            *(
                shlex.quote(argument) if argument.isprintable() else ascii(argument)
                for argument in self.arguments
            ),
        )
        return " ".join(words) + ("" if self.file is None else f", FILE: {ascii(self.file)[1:-1]}")


def refusals(flag: str, values: Sequence[str], told: str) -> list[Refusal]:
    return [Refusal((f"{flag}={value}",), told) for value in values]


def file_refusals(*texts_told: tuple[str, str]) -> list[Refusal]:
    return [Refusal(("--config=FILE",), f"FILE:{told}", file=text) for text, told in texts_told]


def refused(refusal: Refusal) -> Answer:
    """What the command answered to it; a file that it names is there meanwhile."""
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "FILE"
        if refusal.file is not None:
            path.write_text(refusal.file)
        answer = ran(
            [argument.replace("=FILE", f"={path}") for argument in refusal.arguments],
            refusal.prefix,
        )
        return answer._replace(
            stdout=answer.stdout.replace(f"{home}/", ""),
            stderr=answer.stderr.replace(f"{home}/", ""),
        )


IDS = ": must be a whole number from 1 to 1048576"
UNREADABLE = "cannot read the command line: "

REFUSALS = [
    *refusals("--my-id", ("0", "-1", "one", "1.5", "", "1048577", "1_0", "٣"), IDS),
    Refusal(
        ("--my-id=6", "--total-nodes=5"),
        "--my-id=6: must be a whole number from 1 to 5 (--total-nodes)",
    ),
    *refusals("--total-nodes", ("0", "-5", "5.0", "1e3", "", "1048577"), IDS),
    Refusal(
        ("--total-nodes=17", "--dataplane=clusterip"),
        "--total-nodes=17: must be a whole number from 1 to 16 for clusterip",
    ),
    Refusal(
        ("--total-nodes=1048577", "--dataplane=nftables"),
        "--total-nodes=1048577: must be a whole number from 1 to 1048576 for nftables",
    ),
    *refusals(
        "--zk",
        ("", "zk1,,zk2", "zk 1", "10.0.0.256", "[:::]", "[fe80::1%eth0]", "zk1:2181:x", "zk\udcff"),
        " is not host[:port]; the servers must be a list as ",
    ),
    *refusals(
        "--zk",
        ("zk1:0", "zk1:65536", "zk1:", "zk1:x"),
        ": must be a whole number from 1 to 65535",
    ),
    *refusals(
        "--zk",
        ("zk1//a", "zk1/a/../b", "zk1/a\nb", "zk1/\udcff", "zk1/😀"),
        "the chroot after the hosts must be a printable path",
    ),
    *refusals(
        "--zk", ("zk1/zookeeper",), "--zk=zk1/zookeeper: the chroot /zookeeper is ZooKeeper's own"
    ),
    *refusals(
        "--cluster-ip",
        ("", "198.51.100", "198.51.100.256", "198.51.100.1/32", "2001:db8::1"),
        ": must be an IPv4 address, as 198.51.100.1 or ",
    ),
    *refusals(
        "--cluster-ip",
        ("224.0.0.1", "127.0.0.1", "0.0.0.0", "169.254.0.1", "255.255.255.255"),  # noqa: S104
        ": must be a unicast IPv4 address",
    ),
    *refusals(
        "--cluster-ip",
        ("198.51.100.1,198.51.100.1",),
        ": must name each address once, but 198.51.100.1 is there twice",
    ),
    *refusals(
        "--cluster-ip",
        ("198.51.100.1,vip", "198.51.100.1,"),
        " must be an IPv4 address, as ",
    ),
    *refusals(
        "--cluster-ip",
        (",".join(f"198.51.100.{number}" for number in range(65)),),
        ": must be at most 64 addresses, not 65",
    ),
    *refusals(
        "--interface",
        ("", "eth0:1", "a/b", "eth*", "eth 0", "a" * 16, "eth\x1b"),
        ": must be the name of a network interface: 1 to 15 bytes",
    ),
    *refusals(
        "--interface",
        ("lo",),
        ": must be an interface that other machines reach, not the loopback",
    ),
    *refusals("--dataplane", ("", "xdp", "NFTABLES"), ": must be auto, clusterip or nftables"),
    *refusals(
        "--cluster-mac",
        ("", "03:bf", "03bf.c633.6401", "03:bf:c6:33:64:0g"),
        ": a MAC address is six bytes in hexadecimal, as 03:bf:c6:33:64:01",
    ),
    *refusals(
        "--cluster-mac",
        ("02:bf:c6:33:64:01",),
        ": the cluster MAC must be multicast: its first byte must be odd",
    ),
    *refusals(
        "--cluster-mac", ("ff:ff:ff:ff:ff:ff",), ": the broadcast address is not a multicast group"
    ),
    *refusals(
        "--hash-mode",
        ("", "destip"),
        ": must be sourceip, sourceip-sourceport or sourceip-sourceport-destport",
    ),
    *refusals(
        "--hash-seed",
        ("", "-1", "4294967296", "0x100000000", "seed"),
        ": must be a whole number from 0 to 4294967295, or hexadecimal",
    ),
    *refusals(
        "--session-timeout",
        ("", "0", "0.09", "3601", "nan", "4s"),
        ": must be 0.1 to 3600 seconds, as 4 or 1.5",
    ),
    Refusal(("--my-id",), "--my-id requires a value; " + UNREADABLE + "--my-id"),
    Refusal(("--dry-run=1",), "--dry-run takes no value; " + UNREADABLE + "--dry-run=1"),
    Refusal(
        ("--hash=1",),
        "--hash is not unique: --hash-mode or --hash-seed; " + UNREADABLE + "--hash=…",
    ),
    *refusals("--weight", ("", "-1", "1001", "x"), ": must be a whole number from 0 to 1000"),
    *refusals("--drain-timeout", ("", "86401", "1m"), ": must be 0 to 86400 seconds, as 30 or 0.5"),
    *refusals("--xdp", ("", "skb"), ": must be auto, native, generic or off"),
    *refusals("--zk-loss", ("", "drop"), ": must be release or hold"),
    *refusals("--check", ("", "udp:53"), ": must be tcp:PORT, tcp:ADDRESS:PORT, http://"),
    *refusals("--check", ("tcp:http", "tcp:0"), ": the port must be from 1 to 65535"),
    *refusals("--check", ("exec:check-web",), ": must be the full path of a program"),
    *refusals("--check", ("file:up",), ": must be the full path of a file"),
    Refusal(
        ("--check=tcp:80", "--check=tcp:80"),
        "--check=tcp:80: given twice; each health check must be different",
    ),
    *refusals(
        "--check-timing", ("", "2", "2,1,2"), ": must be INTERVAL,TIMEOUT,RISE,FALL, as 2,1,2,3"
    ),
    *refusals("--check-timing", ("0,1,2,3",), ": the interval must be 0.1 to 3600 seconds"),
    *refusals(
        "--notify",
        ("", "notify-us", "/usr/local/bin/"),
        ": must be the full path of a program, without arguments, as ",
    ),
    *refusals(
        "--metrics",
        ("", "9105", "localhost:9105", "0.0.0.0:0", "::1:9105"),
        ": must be an IP address of this machine and a port, as ",
    ),
    *refusals(
        "--zk-auth",
        ("", "digest:me:", "basic:me:/etc/maglev0/password"),
        "…: must be digest:USER:PASSWORD-FILE or sasl:USER:PASSWORD-FILE",
    ),
    *refusals("--zk-ca", ("",), ": must be the path of a file"),
    Refusal(("--zk-key=/key",), "--zk-key=/key: --zk-key needs --zk-cert"),
    Refusal(("--zk-cert=/cert", "--zk-key=/key"), "--zk-cert=/cert: --zk-cert needs --zk-ca"),
    Refusal(("--check-config=1",), "--check-config takes no value; " + UNREADABLE),
    Refusal(("--config=FILE",), "--config=FILE: cannot be read: No such file or directory"),
    *refusals("--config", ("/",), "--config=/: cannot be read: Is a directory"),
    *refusals(
        "--config",
        ("/dev/zero",),
        "--config=/dev/zero: cannot be read: not a file; it must be a TOML file",
    ),
    *file_refusals(
        ("my-id = 0", '1: my-id: "0": must be a whole number from 1 to 1048576'),
        ("my_id = 1", "1: my_id: no such key; did you mean my-id?"),
        (
            "# eth1 is the other\ninterface = eth0",
            "2: interface: not TOML, invalid value at column 13; each line must be key = value, with text in quotes",
        ),
        (
            "my-id = 1\nmy-id = 2",
            "2: 'my-id' is given again; line 1 has it already",
        ),
        ("[maglev0]\nmy-id = 1", "1: 'maglev0' is a table; each line must be key = value"),
        (
            'check = [\n  "tcp:80",\n  "tcp:x",\n]',
            '3: check: "tcp:x": the port must be from 1 to 65535',
        ),
        (
            "check = [\n",
            "1: the list or text that begins here does not end; each line must be key = value",
        ),
        ('verbose = "yes"', "1: verbose: must be true or false"),
        ("weight = [1]", "1: weight: must be one value, not a list"),
        (
            "hash-seed = 7",
            "1: hash-seed: the seed is a secret, but others may read this file; set its mode to 600",
        ),
        ('zk-auth = "hunter2"', '1: zk-auth: "…": must be digest:USER:PASSWORD-FILE'),
        (
            "my-id = 0\nweight = -1",
            '1: my-id: "0": must be a whole number from 1 to 1048576 (and 1 more, which --check-config shows)',
        ),
    ),
    Refusal(
        ("--config=FILE", "--total-nodes=5"),
        'FILE:1: my-id: "6": must be a whole number from 1 to 5 (--total-nodes)',
        file="my-id = 6",
    ),
    Refusal(
        ("--prio=2",),
        "there is no flag --prio; " + UNREADABLE + "--prio=…; maglev0 --help shows what is allowed",
    ),
    Refusal(
        ("-x",),
        "there is no flag -x; " + UNREADABLE + "-x; maglev0 --help shows what is allowed",
    ),
    Refusal(
        ("start",),
        UNREADABLE + "start; did you mean maglev0 status? maglev0 --help shows what is allowed",
    ),
    Refusal(("\x1b[2J",), UNREADABLE + r"'\x1b[2J'; maglev0 --help shows what is allowed"),
    Refusal(
        ("--hash-seed=7", "--prio"),
        "a flag after --hash-seed is unknown; "
        + UNREADABLE
        + "--hash-seed=…; maglev0 --help shows what is allowed",
    ),
    Refusal(
        ("--my-id=1", "--my-id=2"),
        "--my-id is given twice; "
        + UNREADABLE
        + "--my-id=1 --my-id=2; maglev0 --help shows what is allowed",
    ),
]

# What only a kernel can refuse.
NFTABLES_WITHOUT_RIGHT = Refusal(
    ("--dataplane=nftables",),
    "nftables needs CAP_NET_ADMIN and CAP_NET_RAW: run maglev0 as root",
    1,
    NOBODY,
)
CLUSTERIP_WITHOUT_RIGHT = Refusal(
    ("--dataplane=clusterip",),
    "clusterip needs CAP_NET_ADMIN and CAP_NET_RAW: run maglev0 as root",
    1,
    NOBODY,
)
NO_MODULE = Refusal(
    ("--dataplane=clusterip",),
    " has no module ipt_CLUSTERIP, which left Linux in 6.3: use --dataplane=nftables",
    1,
)
NO_INTERFACE = Refusal(
    ("--interface=nowhere0",), "--interface=nowhere0: no such interface; this machine has: ", 1
)


def assert_refused(refusal: Refusal, stdout: str | None = None) -> None:
    answer = refused(refusal)
    assert (answer.status, answer.stderr.count("\n")) == (refusal.status, 1)
    assert stdout in (None, answer.stdout)
    assert answer.stderr.startswith("maglev0: ")
    assert answer.stderr[:-1].isprintable()
    assert refusal.told in answer.stderr


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
    """A network namespace with an interface, d0, that lasts as long as its only process; what leads a command into it."""
    script = "ip link add d0 type veth peer d1 && ip link set d0 up && ip link set d1 up && echo ready && exec cat"
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
            told = f"maglev0: another maglev0 serves 198.51.100.1 on this host already (pid {first.pid} of uid 0): stop it first\n"
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


def table() -> Iterator[str]:
    """What was given, what was printed, the exit status: a line each."""
    for refusal in (
        *REFUSALS,
        NFTABLES_WITHOUT_RIGHT,
        CLUSTERIP_WITHOUT_RIGHT,
        NO_MODULE,
        NO_INTERFACE,
    ):
        answer = refused(refusal)
        yield f"| `{refusal}` | {answer.stderr.strip()} | {answer.status} |"


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


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in table())
