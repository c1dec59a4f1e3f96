"""maglev0: N Linux servers share one virtual IP without a load balancer in front.

Usage:
  maglev0 [--my-id=ID] [--total-nodes=N] [--zk=ZK] [--cluster-ip=IP] [options]

Options:
  --my-id=<ID>            local node id, from 1; unique in the cluster [default: 1]
  --total-nodes=<N>       node numbers in the cluster; may exceed the machines there are [default: 5]
  --zk=<ZK>               ZooKeeper connection string, csv, with an optional /chroot at its end [default: localhost:2181]
  --cluster-ip=<IP>       the VIP [default: 198.51.100.1]
  --interface=<IF>        where the VIP's traffic arrives (left out: the interface that holds the VIP or the route to it)
  --dataplane=<NAME>      auto, clusterip or nftables [default: auto]
  --cluster-mac=<MAC>     multicast MAC of the VIP (left out: derived from the VIP, the same on every node)
  --hash-mode=<MODE>      sourceip, sourceip-sourceport, sourceip-sourceport-destport [default: sourceip]
  --hash-seed=<SEED>      32-bit seed of the packet hash (left out: the cluster's own)
  --session-timeout=<S>   ZooKeeper session timeout in seconds, fractions allowed [default: 4]
  --weight=<W>            this node's share in proportion to the others', 0 to 1000; 0 = a member that owns nothing [default: 1]
  --drain-timeout=<S>     how long SIGTERM waits for connections to end that other nodes cannot take over, in seconds [default: 30]
  --xdp=<MODE>            refuse foreign packets before the stack: auto, native, generic or off; auto is native if the driver can [default: auto]
  --zk-loss=<WHAT>        what happens while no ZooKeeper server answers: release or hold, see below [default: release]
  --dry-run               compute and log, change nothing in the kernel; buckets stay with the nodes that serve
  -v, --verbose           log what did not change, too
  -h, --help              show this text
  --version               show the version

Of --total-nodes, --hash-mode, --hash-seed and --cluster-mac the cluster keeps the values it was founded with: a flag left out
adopts them (the defaults above are for the first node), a flag that contradicts them refuses to start.

Without ZooKeeper's word a node's lease ends, two thirds of a session timeout after the last, and its kernel accepts no new flows
(release); or the node goes on under the last view that it knew, at the risk that two nodes answer the same client (hold).

A whole cluster in a box, to look at: maglev0 lab --help

Signals: SIGTERM and SIGINT give everything up by hand-over, wait for connections to end and remove what was added; a second one ends
the wait. SIGUSR1 stops at once and leaves all as it is, for a restart: the next daemon takes the same place back.

Exit status: 0 stopped by a signal, 1 cannot run here or now, 2 a flag is wrong or contradicts the cluster,
70 the main loop stood still for a session timeout.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import docopt

from maglev0 import __version__
from maglev0.config import Config, parse, printable
from maglev0.errors import ConfigError, MaglevError

_DEFAULT = re.compile(r" \[default: [^\]]*\]")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status; every error is one line on stderr."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["lab"]:
        from maglev0.lab import cli as lab  # noqa: PLC0415  the lab brings rich, which no daemon needs in memory

        return lab.main(arguments[1:])
    try:
        config = read(arguments)
        from maglev0 import daemon  # noqa: PLC0415  --help and a bad flag need none of its libraries

        return daemon.run(config)
    except MaglevError as error:
        sys.stderr.write(f"maglev0: {error}\n")
        return error.exit_status


def read(argv: list[str]) -> Config:
    """Parse the daemon's command line by the text above; SystemExit after --help and --version, ConfigError when it is wrong."""
    with_defaults = _arguments(__doc__, argv)  # before the other, for this is the text that --help shows
    return parse(_arguments(_DEFAULT.sub("", __doc__), argv), with_defaults)


def _arguments(text: str, argv: list[str]) -> dict[str, Any]:
    try:
        return dict(docopt.docopt(text, argv, version=f"maglev0 {__version__}"))
    except docopt.DocoptExit as error:
        # docopt names the fault in its first line only where an option is unknown, ambiguous or lacks its value.
        fault = str(error).partition("\n")[0]
        known = "" if fault.lower().startswith("usage") else f"{fault}; "
        raise ConfigError(f"{known}cannot read the command line: {printable(' '.join(argv))}; maglev0 --help shows what is allowed") from error
