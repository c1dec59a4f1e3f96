"""Whether ZooKeeper suits a cluster: its servers, the sessions that they grant, and how fast they write, against the lease.

Pure: imports no I/O.
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
ELECTION = "election against lease"
LEASE = "lease against session"
ACCESS = "rights on ZooKeeper"
WRITES = "ZooKeeper's writes"
ROUNDING_S = 0.002  # timeouts travel in whole milliseconds
ELECTION_S = 0.5  # from the end of the old leader to the service of the new: seen 0.2 to 0.5 s with three servers
_CONF = re.compile(r"^(\w+)=(-?\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class ServerReading:
    """One server of the connection string. `problem` says why it does not serve; `conf` is what it tells of its settings, empty where it does not.

    `granted_s` is the session timeout that it gave who asked for `asked_s`; `least_s` and `most_s` are the shortest and the longest that it gives.
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
    """Version and mode, of the answer to the four-letter word `srvr`; empty where it does not tell."""
    version = re.search(r"^Zookeeper version: ([\w.]+)", text, re.MULTILINE)
    mode = re.search(r"^Mode: ([\w-]+)", text, re.MULTILINE)
    return version[1] if version else "", mode[1] if mode else ""


def read_conf(text: str) -> dict[str, int]:
    """The numbers among the settings, of the answer to `conf`; empty where that is not allowed."""
    return {name: int(value) for name, value in _CONF.findall(text)}


def judge_access(*, identity: bool, tls: bool) -> list[Finding]:
    """Judge who else may write there, by what this machine's own flags say."""
    why = (
        "whoever reaches ZooKeeper's ports can take the VIP, or learn the seed and aim at one node"
    )
    opened = note(
        ACCESS,
        "the cluster's znodes are anybody's to change",
        why,
        "give all nodes --zk-auth; keep these ports to the servers that need them",
    )
    clear = note(
        ACCESS,
        "the password travels in the clear",
        "whoever listens on the way can take the VIP with it",
        "give all nodes --zk-ca, too",
    )
    return judged(
        ACCESS,
        "the cluster's znodes are its own",
        opened if not identity else None if tls else clear,
    )


def judge(servers: Sequence[ServerReading]) -> list[Finding]:
    """Judge the servers by themselves."""
    serving = [server for server in servers if not server.problem]
    return [
        *judged(SERVERS, f"all {len(servers)} serve", *_away(servers, serving)),
        *judged(QUORUM, "they are one ensemble", *_ensemble(servers, serving)),
    ]


def _away(servers: Sequence[ServerReading], serving: Sequence[ServerReading]) -> list[Finding]:
    why = (
        "no lease is renewed, so no node accepts a new flow"
        if not serving
        else "the fewer servers, the nearer the end of the quorum"
    )
    worst = warning if serving else fault
    mend = "systemctl status zookeeper, on that server; check --zk and the ports between"
    return [
        worst(SERVERS, f"{server.address} {server.problem}", why, mend)
        for server in servers
        if server.problem
    ]


def _ensemble(servers: Sequence[ServerReading], serving: Sequence[ServerReading]) -> list[Finding]:
    found = []
    heads = [server.address for server in serving if server.mode in ("leader", "standalone")]
    if len(heads) > 1:
        what = f"{' and '.join(heads)} each lead for themselves"
        why = (
            "nodes that reach different ones do not see each other, and answer for the same shares"
        )
        found.append(
            fault(
                QUORUM,
                what,
                why,
                "name the servers of one ensemble in --zk, and the same on every node",
            )
        )
    if any(server.mode == "standalone" for server in serving) and len(servers) == 1:
        why = (
            "while it is away no node accepts a new flow: an ensemble of three goes on without one"
        )
        found.append(note(QUORUM, f"{servers[0].address} stands alone", why))
    elif len(servers) % 2 == 0 and len(heads) == 1:
        found.append(
            note(
                QUORUM,
                f"{len(servers)} servers are named",
                "an even number outlives no more failures than one less would",
            )
        )
    versions = sorted({server.version for server in serving if server.version})
    if len(versions) > 1:
        found.append(
            note(
                QUORUM,
                f"the servers run versions {', '.join(versions)}",
                "fine while they are upgraded, not for long",
            )
        )
    return found


def judge_times(servers: Sequence[ServerReading], agreed: Terms | None) -> list[Finding]:
    """Judge what sessions they grant; `agreed` are the terms of the cluster's lease, where there is a cluster."""
    serving = [server for server in servers if server.granted_s is not None]
    if not serving:
        return [
            left_out(check, "no server grants a session") for check in (SESSION, LEASE, ELECTION)
        ]
    session = judged(
        SESSION,
        f"{serving[0].granted_s:g} s, as asked for",
        *(_granted(server) for server in serving),
    )
    if agreed is None:
        return session
    return [
        *session,
        *judged(
            LEASE,
            f"leases of {agreed.length_s:g} s end before sessions do",
            _lease(serving[0], agreed),
        ),
        *_election(serving, agreed),
    ]


def _granted(server: ServerReading) -> Finding | None:
    granted_s = server.granted_s or 0.0
    if abs(granted_s - server.asked_s) <= ROUNDING_S:
        return None
    what = f"{server.address} grants sessions of {granted_s:g} s where {server.asked_s:g} s are asked for"
    if granted_s > server.asked_s:
        least = f"the shortest that it grants, two ticks by default, is {server.least_s or granted_s:g} s"
        why = f"a crashed node's share goes unanswered for as long: {least}"
        tick_ms = int(1000 * server.asked_s / 2)
        return warning(
            SESSION,
            what,
            why,
            f"in zoo.cfg: tickTime={tick_ms}, or minSessionTimeout={int(1000 * server.asked_s)}; the same on all servers",
        )
    why = f"a node that is cut off for longer than that is out; the longest that it grants, 20 ticks by default, is {server.most_s or granted_s:g} s"
    return warning(
        SESSION,
        what,
        why,
        f"in zoo.cfg: maxSessionTimeout={int(1000 * server.asked_s)}; the same on all servers",
    )


def _lease(server: ServerReading, agreed: Terms) -> Finding | None:
    granted_s = server.granted_s or 0.0
    if agreed.over_s + agreed.interval_s <= granted_s + ROUNDING_S:
        return None
    what = f"the cluster's lease of {agreed.length_s:g} s is longer than two thirds of a session of {granted_s:g} s"
    why = "a crash costs more than a session timeout: the others wait for the lease's end"
    return warning(
        LEASE,
        what,
        why,
        f"give all nodes --session-timeout={agreed.length_s * 1.5:.2g}, or found the cluster anew with a shorter one",
    )


def _election(serving: Sequence[ServerReading], agreed: Terms) -> list[Finding]:
    if all(server.mode in ("standalone", "") for server in serving):
        return judged(ELECTION, "a server that stands alone elects nobody")
    conf = next(
        (server.conf for server in serving if {"tickTime", "syncLimit"} <= server.conf.keys()), None
    )
    if conf is None:
        return [
            left_out(
                ELECTION,
                "no server tells its tickTime and syncLimit",
                "in zoo.cfg: 4lw.commands.whitelist=srvr,conf",
            )
        ]
    silence_s = conf["tickTime"] * conf["syncLimit"] / 1000 + ELECTION_S
    bearable_s = agreed.length_s - agreed.interval_s
    what = f"a leader that falls silent is replaced after some {silence_s:g} s, and leases bear {bearable_s:.2g} s"
    late = None
    if silence_s > bearable_s:
        why = "until then no lease is renewed: no node accepts a new flow"
        mend = f"in zoo.cfg: tickTime={min(conf['tickTime'], 500)}, syncLimit=2; or a longer --session-timeout on all nodes"
        late = warning(ELECTION, what, why, mend)
    return judged(ELECTION, what, late)


def judge_writes(took_s: Sequence[float], agreed: Terms) -> list[Finding]:
    """Judge how long writes took, against the time between two renewals and the lease."""
    if not took_s:
        return [left_out(WRITES, "none could be tried")]
    slowest_s = max(took_s)
    what = f"the slowest of {len(took_s)} took {1000 * slowest_s:.0f} ms; a lease is renewed every {1000 * agreed.interval_s:.0f} ms"
    why = "renewals that come late end leases, and new flows go unanswered"
    mend = "ZooKeeper's log on a disk of its own (dataLogDir), fewer other writers, a nearer server"
    late = None
    if slowest_s > agreed.interval_s:
        late = (fault if slowest_s > agreed.length_s - agreed.interval_s else warning)(
            WRITES, what, why, mend
        )
    return judged(WRITES, what, late)
