"""maglev0: N Linux servers share one virtual IP without a load balancer in front.

Usage:
  maglev0 [--my-id=ID] [--total-nodes=N] [--zk=ZK] [--cluster-ip=IP] [--check=CHECK]... [options]

Options:
  --my-id=<ID>            local node id, from 1; unique in the cluster [default: 1]
  --total-nodes=<N>       node numbers in the cluster; may exceed the machines there are [default: 5]
  --zk=<ZK>               ZooKeeper connection string, csv, with an optional /chroot at its end [default: localhost:2181]
  --cluster-ip=<IP>       the VIP, or several as csv [default: 198.51.100.1]
  --interface=<IF>        where the VIP's traffic arrives (left out: the interface that holds the VIP or the route to it)
  --dataplane=<NAME>      auto, clusterip or nftables [default: auto]
  --cluster-mac=<MAC>     multicast MAC of the VIP (left out: derived from the VIP, the same on every node)
  --hash-mode=<MODE>      sourceip, sourceip-sourceport, sourceip-sourceport-destport [default: sourceip]
  --hash-seed=<SEED>      32-bit seed of the packet hash (left out: the cluster's own)
  --session-timeout=<S>   ZooKeeper session timeout in seconds, fractions allowed [default: 4]
  --weight=<W>            this node's share in proportion to the others', 0 to 1000; 0 = a member that owns nothing [default: 1]
  --drain-timeout=<S>     how long SIGTERM waits for connections to end that other nodes cannot take over, in seconds [default: 30]
  --xdp=<MODE>            refuse foreign packets before the stack: auto, native, generic or off; auto is native if the driver can [default: auto]
  --zk-loss=<WHAT>        what happens while no ZooKeeper server answers: release or hold [default: release]
  --check=<CHECK>         answer only while this is well; may be given several times
  --check-timing=<T>      interval and time-out of checks in seconds, good ones in a row that count, bad ones in a row [default: 2,1,2,3]
  --notify=<PROGRAM>      called on each change of this node's state, with the event as arguments and as JSON on its standard input
  --metrics=<ADDR:PORT>   where Prometheus may fetch metrics (left out: nowhere)
  --zk-auth=<AUTH>        digest:USER:PASSWORD-FILE or sasl:USER:PASSWORD-FILE: nobody else may then change or feign members
  --zk-ca=<FILE>          PEM file of the CA that vouches for ZooKeeper's servers; connects by TLS
  --zk-cert=<FILE>        PEM file of this node's certificate, where the servers ask for one
  --zk-key=<FILE>         PEM file of its key; may be the same file
  --config=<FILE>         TOML file of flags, named without the dashes: my-id = 1; what is given here wins
  --check-config          say everything that is wrong with the file and the flags, or that nothing is, and stop
  --dry-run               compute and log, change nothing in the kernel; buckets stay with the nodes that serve
  -v, --verbose           log what did not change, too
  -h, --help              show this text
  --version               show the version

Of --total-nodes, --hash-mode, --hash-seed and --cluster-mac the cluster keeps the values it was founded with: a flag left out
adopts them (the defaults above are for the first node), a flag that contradicts them refuses to start.

Without ZooKeeper's word a node's lease ends, two thirds of a session timeout after the last, and its kernel accepts no new flows
(release); or the node goes on under the last view that it knew, at the risk that two nodes answer the same client (hold).

A check is tcp:PORT or tcp:ADDRESS:PORT (the VIP, where no address is named), http://HOST:PORT/PATH or https://HOST:PORT/PATH (all parts
but the scheme may be left out), exec:/PROGRAM ARGUMENTS (well: ends with 0) or file:/PATH (well: is there). While any of them fails,
the others serve this node's share; if every node fails, all keep theirs.

Commands, each with a --help of its own:
  maglev0 status          who is there, who owns what, and whether every node number has exactly one owner
  maglev0 explain         who answers a client, and why
  maglev0 simulate        balance and movement for sizes, weights, joins and leaves of your own
  maglev0 doctor          what on this machine and network breaks such clusters, and what mends it
  maglev0 drain           have a member give up its share, until maglev0 undrain
  maglev0 undrain         have it take part again
  maglev0 weight          give a member another weight
  maglev0 completion      print the completion for bash, zsh or fish
  maglev0 man             list the pages of the manual, or show one
  maglev0 lab             a whole cluster in a box, to look at

Files: /etc/maglev0/maglev0.toml is what the service runs by, and where the commands look for what their own flags leave out.

Signals: SIGTERM and SIGINT give everything up by hand-over, wait for connections to end and remove what was added; a second one ends
the wait. SIGUSR1 stops at once and leaves all as it is, for a restart: the next daemon takes the same place back. SIGHUP reads --config
again and takes over without harm: --weight, --check, --check-timing, --notify, --metrics, --drain-timeout, --verbose, and the VIPs added
to or removed from --cluster-ip. Other changes need a restart, which it says; while the file has an error nothing changes.

Exit status: 0 stopped by a signal, 1 cannot run here or now, 2 a flag is wrong or contradicts the cluster,
70 the main loop stood still for a session timeout.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from maglev0 import __version__
from maglev0.config import arguments
from maglev0.config import file as configfile
from maglev0.config.configuration import Config, FlagFault, FlagsError, parse
from maglev0.config.file import Document
from maglev0.errors import ConfigError

HELP = __doc__ or ""
COMMANDS = tuple(re.findall(r"^  maglev0 ([a-z]+) {2,}", HELP, re.MULTILINE))
_DEFAULT = re.compile(r" \[default: [^\]]*\]")


class CommandLine(NamedTuple):
    """What a command line and the file that it names say: a configuration, or everything that is wrong with them."""

    config: Config | None
    errors: tuple[str, ...]
    file: str | None
    check_only: bool


def read(argv: list[str]) -> Config:
    """Parse the daemon's command line by the text above, and the file that it names, as it is now.

    Raises ConfigError for what is wrong first, and SystemExit after --help and --version.
    """
    return config_of(examine(argv))


def examine(argv: list[str]) -> CommandLine:
    """Parse and check the daemon's command line, and the file that it names; ConfigError where there is nothing to parse."""
    _arguments(HELP, argv)  # before the others, for this is the text that --help shows
    given = _arguments(_DEFAULT.sub("", HELP), argv)
    file = given["--config"]
    document = Document() if file is None else configfile.read(file)
    config: Config | None = None
    faults: tuple[FlagFault, ...] = ()
    try:
        config = parse(document.beneath(given), _arguments(HELP, []))
    except FlagsError as error:
        faults = error.faults
    errors = document.errors(faults, given)
    return CommandLine(None if errors else config, errors, file, given["--check-config"])


def config_of(reading: CommandLine) -> Config:
    """The configuration that was read; ConfigError names the first error where there is none."""
    if reading.config is None:
        more = len(reading.errors) - 1
        raise ConfigError(
            reading.errors[0] + (f" (and {more} more, which --check-config tells)" if more else "")
        )
    return reading.config


def _arguments(text: str, argv: list[str]) -> dict[str, Any]:
    return arguments.parse(text, argv, version=f"maglev0 {__version__}", commands=COMMANDS)
