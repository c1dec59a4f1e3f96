"""Judges ZooKeeper: its servers, the sessions that they grant, and the time of writes. Pure.

It imports no I/O. Its input is what `read` beside it returns. Times are compared with the lease.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from maglev0.operator.doctor.finding import Finding, fault, judged, left_out, note, warning
from maglev0.protocol.lease import Terms

SERVERS = "ZooKeeper's servers"
QUORUM = "ZooKeeper's quorum"
SESSION = "session timeout"
ELECTION = "election and lease"
LEASE = "lease and session"
ACCESS = "access to ZooKeeper"
WRITES = "ZooKeeper's writes"
ROUNDING_S = 0.002  # timeouts travel in whole milliseconds
# From the end of the old leader until the new one serves: measured 0.2 to 0.5 s, three servers.
ELECTION_S = 0.5
_CONF = re.compile(r"^(\w+)=(-?\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class ServerReading:
    """One server of the connection string.

    `problem` says why it does not serve, "" if it does. `granted_s` is the session timeout that it
    granted when asked for `asked_s`; `least_s` and `most_s` are the shortest and longest that it
    grants. `conf` are its settings, empty if it does not publish them.
    """

    address: str
    problem: str = ""
    version: str = ""
    mode: str = ""
    asked_s: float = 0.0
    granted_s: float | None = None
    least_s: float | None = None
    most_s: float | None = None
    conf: Mapping[str, int] = field(default_factory=dict)


def read_srvr(text: str) -> tuple[str, str]:
    """Version and mode in the answer to the four-letter word `srvr`; empty if not allowed."""
    version = re.search(r"^Zookeeper version: ([\w.]+)", text, re.MULTILINE)
    mode = re.search(r"^Mode: ([\w-]+)", text, re.MULTILINE)
    return version[1] if version else "", mode[1] if mode else ""


def read_conf(text: str) -> dict[str, int]:
    """The numeric settings in the answer to `conf`; empty if not allowed."""
    return {name: int(value) for name, value in _CONF.findall(text)}


def judge_access(*, identity: bool, tls: bool) -> list[Finding]:
    """Judge who else may write to ZooKeeper, by this machine's own flags."""
    why = (
        "anyone who reaches ZooKeeper's ports can take the VIP, or read the hash seed and attack"
        " one node"
    )
    opened = note(
        ACCESS,
        "anyone may change the cluster's znodes",
        why,
        "give all nodes --zk-auth; open these ports only to hosts that need them",
    )
    clear = note(
        ACCESS,
        "the password is sent unencrypted",
        "anyone who listens on the way can take the VIP with it",
        "give all nodes --zk-ca",
    )
    return judged(
        ACCESS,
        "only the cluster's identity may change its znodes",
        opened if not identity else None if tls else clear,
    )


def judge(servers: Sequence[ServerReading]) -> list[Finding]:
    """Judge the servers' states."""
    serving = [server for server in servers if not server.problem]
    quorum = (
        judged(QUORUM, "they are one ensemble", *_ensemble(servers, serving))
        if serving
        else [left_out(QUORUM, "no server serves")]
    )
    return [*judged(SERVERS, f"all {len(servers)} serve", *_away(servers, serving)), *quorum]


def _away(servers: Sequence[ServerReading], serving: Sequence[ServerReading]) -> list[Finding]:
    why = (
        "no node can renew its lease, so none accepts a new connection"
        if not serving
        else "with fewer servers, the quorum is lost sooner"
    )
    worst = warning if serving else fault
    fix = "on that server: systemctl status zookeeper; check --zk and the firewall"
    return [
        worst(SERVERS, f"{server.address} {server.problem}", why, fix)
        for server in servers
        if server.problem
    ]


def _ensemble(servers: Sequence[ServerReading], serving: Sequence[ServerReading]) -> list[Finding]:
    found = []
    heads = [server.address for server in serving if server.mode in ("leader", "standalone")]
    if len(heads) > 1:
        what = f"{' and '.join(heads)} lead different ensembles"
        why = "nodes on different ensembles do not see each other, and answer the same clients"
        found.append(
            fault(
                QUORUM,
                what,
                why,
                "name the servers of one ensemble in --zk, the same on every node",
            )
        )
    if any(server.mode == "standalone" for server in serving) and len(servers) == 1:
        why = (
            "while it is away, no node accepts a new connection; an ensemble of three can lose one"
            " server"
        )
        found.append(note(QUORUM, f"{servers[0].address} is the only server", why))
    elif len(servers) % 2 == 0 and len(heads) == 1:
        found.append(
            note(
                QUORUM,
                f"{len(servers)} servers, an even number",
                "one server less survives as many failures",
            )
        )
    versions = sorted({server.version for server in serving if server.version})
    if len(versions) > 1:
        found.append(
            note(
                QUORUM,
                f"the servers run versions {', '.join(versions)}",
                "this is fine only during an upgrade",
            )
        )
    return found


def judge_times(servers: Sequence[ServerReading], agreed: Terms | None) -> list[Finding]:
    """Judge the sessions that they grant.

    `agreed` are the terms of the cluster's lease, None if there is no cluster.
    """
    serving = [server for server in servers if server.granted_s is not None]
    if not serving:
        return [
            left_out(check, "no server grants a session") for check in (SESSION, LEASE, ELECTION)
        ]
    session = judged(
        SESSION,
        f"{serving[0].granted_s:g} s, as requested",
        *(_granted(server) for server in serving),
    )
    if agreed is None:
        return session
    return [
        *session,
        *judged(
            LEASE,
            f"a lease of {agreed.length_s:g} s expires before a session does",
            _lease(serving[0], agreed),
        ),
        *_election(serving, agreed),
    ]


def _granted(server: ServerReading) -> Finding | None:
    granted_s = server.granted_s or 0.0
    if abs(granted_s - server.asked_s) <= ROUNDING_S:
        return None
    asked_s = server.asked_s
    what = f"{server.address} grants sessions of {granted_s:g} s, not {asked_s:g} s as requested"
    if granted_s > server.asked_s:
        why = (
            "no node answers in a crashed node's share for that long; the shortest session that the"
            f" server grants, two ticks by default, is {server.least_s or granted_s:g} s"
        )
        tick_ms = int(1000 * server.asked_s / 2)
        return warning(
            SESSION,
            what,
            why,
            f"in zoo.cfg on all servers: tickTime={tick_ms}, or"
            f" minSessionTimeout={int(1000 * server.asked_s)}",
        )
    why = (
        "a node that is cut off for longer leaves the cluster; the longest session that the server"
        f" grants, 20 ticks by default, is {server.most_s or granted_s:g} s"
    )
    return warning(
        SESSION,
        what,
        why,
        f"in zoo.cfg on all servers: maxSessionTimeout={int(1000 * server.asked_s)}",
    )


def _lease(server: ServerReading, agreed: Terms) -> Finding | None:
    granted_s = server.granted_s or 0.0
    if agreed.over_s + agreed.interval_s <= granted_s + ROUNDING_S:
        return None
    what = (
        f"the cluster's lease of {agreed.length_s:g} s is longer than two thirds of a session of"
        f" {granted_s:g} s"
    )
    why = "a crash lasts longer than a session timeout, because the others wait for the lease"
    return warning(
        LEASE,
        what,
        why,
        f"give all nodes --session-timeout={agreed.length_s * 1.5:.2g}, or start a new cluster with"
        " a shorter lease",
    )


def _election(serving: Sequence[ServerReading], agreed: Terms) -> list[Finding]:
    if all(server.mode in ("standalone", "") for server in serving):
        return judged(ELECTION, "a single server holds no elections")
    conf = next(
        (server.conf for server in serving if {"tickTime", "syncLimit"} <= server.conf.keys()), None
    )
    if conf is None:
        return [
            left_out(
                ELECTION,
                "no server publishes tickTime and syncLimit",
                "in zoo.cfg: 4lw.commands.whitelist=srvr,conf",
            )
        ]
    silence_s = conf["tickTime"] * conf["syncLimit"] / 1000 + ELECTION_S
    bearable_s = agreed.length_s - agreed.interval_s
    what = (
        f"the servers replace a silent leader after about {silence_s:g} s; leases outlast"
        f" {bearable_s:.2g} s"
    )
    slow = None
    if silence_s > bearable_s:
        why = "until then no node can renew its lease: none accepts a new connection"
        fix = (
            f"in zoo.cfg: tickTime={min(conf['tickTime'], 500)}, syncLimit=2; or a longer"
            " --session-timeout on all nodes"
        )
        slow = warning(ELECTION, what, why, fix)
    return judged(ELECTION, what, slow)


def judge_writes(took_s: Sequence[float], agreed: Terms) -> list[Finding]:
    """Judge how long writes took, in seconds, against the renewal interval and the lease."""
    if not took_s:
        return [left_out(WRITES, "no write succeeded")]
    slowest_s = max(took_s)
    what = (
        f"the slowest of {len(took_s)} took {1000 * slowest_s:.0f} ms; a node renews its lease"
        f" every {1000 * agreed.interval_s:.0f} ms"
    )
    why = "when renewals are late, leases expire and new connections get no answer"
    fix = (
        "put ZooKeeper's log on a disk of its own (dataLogDir), use fewer other writers, or a"
        " nearer server"
    )
    slow = None
    if slowest_s > agreed.interval_s:
        slow = (fault if slowest_s > agreed.length_s - agreed.interval_s else warning)(
            WRITES, what, why, fix
        )
    return judged(WRITES, what, slow)
