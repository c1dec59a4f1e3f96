"""maglev0: N Linux servers share one virtual IP without a load balancer in front.

Usage:
  maglev0 [--my-id=ID] [--total-nodes=N] [--zk=ZK] [--cluster-ip=IP] [--check=CHECK]... [options]

Options:
  --my-id=<ID>            id of this node, from 1; unique in the cluster [default: 1]
  --total-nodes=<N>       number of buckets; may exceed the number of nodes [default: 5]
  --zk=<ZK>               ZooKeeper servers as csv; a /chroot may follow the last one
                          [default: localhost:2181]
  --cluster-ip=<IP>       the VIP, or several as csv [default: 198.51.100.1]
  --interface=<IF>        interface on which the VIP's traffic arrives; if left out, the one that
                          holds the VIP or has the route to it
  --dataplane=<NAME>      auto, clusterip or nftables [default: auto]
  --cluster-mac=<MAC>     multicast MAC of the VIP; if left out, all nodes derive it from the VIP
  --hash-mode=<MODE>      sourceip, sourceip-sourceport or sourceip-sourceport-destport
                          [default: sourceip]
  --hash-seed=<SEED>      32-bit seed of the packet hash; if left out, the cluster's own
  --session-timeout=<S>   ZooKeeper session timeout in seconds; may be a fraction [default: 4]
  --weight=<W>            share of this node in proportion to the others, 0 to 1000; a node of
                          weight 0 is a member that owns nothing [default: 1]
  --drain-timeout=<S>     how long a stop waits for connections to end that no other node can
                          take over, in seconds [default: 30]
  --xdp=<MODE>            drop other nodes' packets before the network stack: auto, native, generic
                          or off; auto is native if the driver supports it [default: auto]
  --zk-loss=<WHAT>        what this node does while no ZooKeeper server answers: release or hold
                          [default: release]
  --check=<CHECK>         health check: while it fails, other nodes serve this node's share; may be
                          given several times
  --check-timing=<T>      interval and timeout of the health checks in seconds, good results in a
                          row that count, bad results in a row that count [default: 2,1,2,3]
  --notify=<PROGRAM>      program that runs on each change of this node's state; it gets the event
                          as arguments and as JSON on standard input
  --metrics=<ADDR:PORT>   address on which Prometheus can read metrics; if left out, none
  --zk-auth=<AUTH>        digest:USER:PASSWORD-FILE or sasl:USER:PASSWORD-FILE; only this user can
                          change or forge members
  --zk-ca=<FILE>          PEM file of the CA of the ZooKeeper servers; turns TLS on
  --zk-cert=<FILE>        PEM file of this node's certificate, for servers that ask for one
  --zk-key=<FILE>         PEM file of the certificate's key; may be the same file
  --config=<FILE>         TOML file of flags, named without the dashes, as my-id = 1; a flag on the
                          command line replaces the value in the file
  --check-config          print every mistake in the file and the flags, or ok, and stop
  --dry-run               compute and log, but change nothing in the kernel; serving nodes keep
                          their buckets
  -v, --verbose           also log what did not change
  -h, --help              show this text
  --version               show the version

The cluster keeps the values of --total-nodes, --hash-mode, --hash-seed and --cluster-mac with which
its first node started; the defaults above are for that node. A node that leaves such a flag out
adopts the cluster's value. A node with a contradicting flag refuses to start.

A node holds a lease and renews it through ZooKeeper. If no renewal succeeds, the lease expires two
thirds of a session timeout after the last one, and the kernel accepts no new connections (release).
With hold, the node goes on with the last view that it read, at the risk that two nodes answer the
same client.

A health check is tcp:PORT or tcp:ADDRESS:PORT (ADDRESS defaults to the VIP), http://HOST:PORT/PATH
or https://HOST:PORT/PATH (every part after the scheme may be left out), exec:/PROGRAM ARGUMENTS
(good if it exits with 0) or file:/PATH (good if the file exists). If the health checks of all nodes
fail, all nodes keep their shares.

Commands, each with a --help of its own:
  maglev0 status          show the members, who owns what, and whether each bucket has one owner
  maglev0 explain         show which node answers a client, and why
  maglev0 simulate        compute balance and movement for sizes, weights, joins and leaves
  maglev0 doctor          find what breaks such clusters on this machine and network, and the fix
  maglev0 drain           make a member give up its share, until maglev0 undrain
  maglev0 undrain         make the member take part again
  maglev0 weight          give a member another weight
  maglev0 completion      print the completion for bash, zsh or fish
  maglev0 man             list the pages of the manual, or show one
  maglev0 lab             run a cluster in a box, on this machine alone

Files: the service reads /etc/maglev0/maglev0.toml. The commands take from it what their own flags
leave out.

Signals: SIGTERM and SIGINT hand all buckets over, wait for connections to end, and remove what the
daemon added to the machine; a second one ends the wait. SIGUSR1 stops at once and leaves everything
in place for a restart: the next daemon takes the same buckets. SIGHUP reads --config again. The
daemon applies changes of --weight, --check, --check-timing, --notify, --metrics, --drain-timeout
and --verbose, and VIPs added to or removed from --cluster-ip; the log names every other change,
which needs a restart. While the file has a mistake, nothing changes.

Exit status: 0 stopped by a signal, 1 cannot run here or now, 2 a flag is wrong or contradicts the
cluster, 70 the main loop stood still for a session timeout.
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
# A flag that is left out must be told from one given with the default value.
_DEFAULT = re.compile(r"\s+\[default: [^\]]*\]")


class CommandLine(NamedTuple):
    """The result of reading a command line and the file that it names.

    `config` is `None` if there are `errors`, one line each. `file` is the path given by --config.
    """

    config: Config | None
    errors: tuple[str, ...]
    file: str | None
    check_only: bool


def read(argv: list[str]) -> Config:
    """Parse the daemon's command line by the text above, and the present text of its file.

    Raises ConfigError with the first error, and SystemExit after --help and --version.
    """
    return config_of(examine(argv))


def examine(argv: list[str]) -> CommandLine:
    """Parse and check the daemon's command line, and the file that it names.

    Raises ConfigError if the command line cannot be parsed or the file cannot be read.
    """
    _arguments(HELP, argv)  # first, because --help prints the text that is parsed
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
    """Return the configuration that was read; raises ConfigError with the first error."""
    if reading.config is None:
        more = len(reading.errors) - 1
        raise ConfigError(
            reading.errors[0] + (f" (and {more} more, which --check-config shows)" if more else "")
        )
    return reading.config


def _arguments(text: str, argv: list[str]) -> dict[str, Any]:
    return arguments.parse(text, argv, version=f"maglev0 {__version__}", commands=COMMANDS)
