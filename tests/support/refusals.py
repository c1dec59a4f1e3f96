"""What the command refuses, run in a process of its own: arguments, message, exit status.

`python -m tests.support.refusals` prints the table of all refusals.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-B", "-m", "maglev0")
NO_ZOOKEEPER = "--zk=127.0.0.1:1"
# Another user, who may read the directory of the interpreter and nothing else.
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
    """Run the command and return its answer."""
    done = subprocess.run(
        [*prefix, *COMMAND, *arguments],
        cwd=ROOT,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())


class Refusal(NamedTuple):
    """Arguments, a part of the message that must be printed, and the exit status."""

    arguments: tuple[str, ...]
    expected: str
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


def refusals(flag: str, values: Sequence[str], expected: str) -> list[Refusal]:
    return [Refusal((f"{flag}={value}",), expected) for value in values]


def file_refusals(*texts_expected: tuple[str, str]) -> list[Refusal]:
    return [
        Refusal(("--config=FILE",), f"FILE:{expected}", file=text)
        for text, expected in texts_expected
    ]


def refused(refusal: Refusal) -> Answer:
    """Run the command; the file that it names exists meanwhile."""
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
            (
                "2: interface: not TOML, invalid value at column 13; each line must be key = "
                "value, with text in quotes"
            ),
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
            (
                "1: hash-seed: the seed is a secret, but others may read this file; set its mode "
                "to 600"
            ),
        ),
        ('zk-auth = "hunter2"', '1: zk-auth: "…": must be digest:USER:PASSWORD-FILE'),
        (
            "my-id = 0\nweight = -1",
            (
                '1: my-id: "0": must be a whole number from 1 to 1048576 (and 1 more, which '
                "--check-config shows)"
            ),
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


def table() -> Iterator[str]:
    """A line for each refusal: arguments, message, exit status."""
    for refusal in (
        *REFUSALS,
        NFTABLES_WITHOUT_RIGHT,
        CLUSTERIP_WITHOUT_RIGHT,
        NO_MODULE,
        NO_INTERFACE,
    ):
        answer = refused(refusal)
        yield f"| `{refusal}` | {answer.stderr.strip()} | {answer.status} |"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in table())
