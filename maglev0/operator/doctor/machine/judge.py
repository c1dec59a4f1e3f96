"""Judges this machine's kernel, rights, connection tracking and clocks. Pure.

It imports no I/O. Its input is what `read` beside it returns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from maglev0.operator.doctor.finding import Finding, fault, judged, left_out, note, warning

DATAPLANE = "dataplane"
GUARD = "protection of the rules"
XDP = "XDP"
CONNTRACK = "connection tracking"
CONNTRACK_TIME = "connection tracking of idle connections"
CLOCK = "clock"
NEARLY_FULL = 0.8  # of the table; a flood of SYNs fills the rest within seconds
KEEPALIVE_S = 7440  # a connection may be idle that long between keepalives (RFC 5382, REQ-5)
_OWNED_TABLES = (6, 9)  # from this kernel on other programs cannot flush our tables


@dataclass(frozen=True)
class Conntrack:
    """Connection tracking of this network namespace.

    Its entries, their limit, and the seconds for which it keeps an idle TCP connection.
    """

    count: int
    most: int
    established_s: int


@dataclass(frozen=True)
class MachineReading:
    """The state of the machine's kernel.

    `unable` says why no dataplane can run here, `without_xdp` why XDP cannot; empty if they can.
    `suspended_s` is how long the machine was suspended since its boot, `synchronised` whether a
    time daemon keeps its clock right (None: unknown).
    """

    release: str
    unable: str
    clusterip: bool
    without_xdp: str
    conntrack: Conntrack | None
    suspended_s: float
    synchronised: bool | None


@dataclass(frozen=True)
class Counts:
    """Counters of this network namespace, and offsets of two clocks, at one moment.

    `ahead_s` is how far CLOCK_BOOTTIME and CLOCK_REALTIME are ahead of CLOCK_MONOTONIC, in seconds.
    """

    conntrack_dropped: int = 0
    conntrack_early: int = 0
    reverse_path: int = 0
    ahead_s: tuple[float, float] = (0.0, 0.0)


def judge(kernel: MachineReading) -> list[Finding]:
    """Judge one reading of the machine."""
    return [
        *judged(DATAPLANE, "a dataplane can run here", _dataplane(kernel)),
        *judged(GUARD, "other programs cannot flush the rules", _guard(kernel)),
        *judged(XDP, "XDP can drop foreign packets here", _xdp(kernel)),
        *_conntrack(kernel.conntrack),
        *judged(
            CLOCK,
            "the clock is synchronised, and this machine was never suspended",
            _synchronised(kernel),
            _suspended(kernel),
        ),
    ]


def _dataplane(kernel: MachineReading) -> Finding | None:
    if not kernel.unable:
        return None
    root = (
        "run it as root"
        if "CAP_" in kernel.unable
        else "install or load what is missing, or use a newer kernel"
    )
    return fault(
        DATAPLANE, kernel.unable, "without a dataplane this machine cannot be a node", root
    )


def _guard(kernel: MachineReading) -> Finding | None:
    if kernel.clusterip or version(kernel.release) >= _OWNED_TABLES:
        return None
    why = (
        "each reload of Debian's nftables.conf begins with `nft flush ruleset`; then this node"
        " answers every client until the daemon restores its rules"
    )
    what = (
        f"Linux {kernel.release} lets other programs flush the daemon's rules; Linux 6.9 does not"
    )
    return note(GUARD, what, why, "let other programs delete and reload only their own tables")


def version(release: str) -> tuple[int, ...]:
    """The first two numbers of a kernel's release."""
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])


def _xdp(kernel: MachineReading) -> Finding | None:
    if not kernel.without_xdp:
        return None
    return note(
        XDP,
        f"XDP cannot run here: {kernel.without_xdp}",
        "packets of other nodes' shares cost this node several times as much CPU",
    )


def _conntrack(found: Conntrack | None) -> list[Finding]:
    if found is None:
        return [
            left_out(
                CONNTRACK,
                "connection tracking is not loaded; the daemon's rules load it",
            )
        ]
    full = f"connection tracking holds {found.count} of at most {found.most} entries"
    why = "when the table is full, the kernel drops new connections that this node must answer"
    fix = f"sysctl -w net.netfilter.nf_conntrack_max={2 * found.most}"
    worst = fault if found.count >= found.most else warning
    nearly = worst(CONNTRACK, full, why, fix) if found.count >= NEARLY_FULL * found.most else None
    forgets = f"connection tracking forgets TCP connections after {found.established_s} idle s"
    why = (
        "the next packet then belongs to no connection, and the kernel drops it silently;"
        " keepalives come every 7200 s"
    )
    fix = "sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=432000"
    short = (
        warning(CONNTRACK_TIME, forgets, why, fix) if found.established_s < KEEPALIVE_S else None
    )
    return [
        *judged(CONNTRACK, full, nearly),
        *judged(CONNTRACK_TIME, "entries outlast the time between two keepalives", short),
    ]


def _synchronised(kernel: MachineReading) -> Finding | None:
    if kernel.synchronised is not False:
        return None
    why = (
        "a step of the clock ends this node's lease for a moment, because the daemon cannot tell it"
        " from the resume of a suspended machine"
    )
    return note(
        CLOCK,
        "the kernel reports that no time daemon synchronises this machine's clock",
        why,
        "apt install chrony",
    )


def _suspended(kernel: MachineReading) -> Finding | None:
    if kernel.suspended_s < 1:
        return None
    why = (
        "the lease timer stops while a machine is suspended: after the resume it may answer in"
        " addition to the new owner"
    )
    what = f"this machine was suspended for {kernel.suspended_s:.0f} s since its boot"
    return warning(
        CLOCK,
        what,
        why,
        "systemctl mask sleep.target suspend.target hibernate.target hybrid-sleep.target",
    )


COUNTERS = "packets dropped by the kernel"
STEPS = "clock steps"
STEP_S = 0.05  # slewing changes the offset of two clocks by 0.5 ms per second


def moved(before: Counts, after: Counts, interface: str) -> list[Finding]:
    """Judge what changed while the other checks ran; `interface` is named in the fix."""
    steps = [new - old for new, old in zip(after.ahead_s, before.ahead_s, strict=True)]
    step_s = max(steps, key=abs)
    stepped = fault(
        STEPS,
        f"the clock jumped by {step_s:+.2f} s during this examination",
        "each jump ends this node's lease until the next renewal, as after a suspend",
        "let the time daemon slew the clock and step it only at boot (chrony: makestep 1 3)",
    )
    return [
        *judged(COUNTERS, "none during this examination", *_dropped(before, after, interface)),
        *judged(STEPS, "none during this examination", stepped if abs(step_s) > STEP_S else None),
    ]


def _dropped(before: Counts, after: Counts, interface: str) -> list[Finding]:
    found = []
    reverse = after.reverse_path - before.reverse_path
    if reverse:
        what = f"the reverse path filter dropped {reverse} packets during this examination"
        why = (
            "the kernel drops packets from sources that it would answer by another interface;"
            " packets for the VIP may be among them"
        )
        found.append(
            warning(COUNTERS, what, why, f"sysctl -w net.ipv4.conf.{interface}.rp_filter=2")
        )
    lost = after.conntrack_dropped - before.conntrack_dropped
    if lost:
        what = f"connection tracking dropped {lost} packets during this examination"
        found.append(
            fault(
                COUNTERS,
                what,
                "its table is full, or memory is short: new connections fail",
                "sysctl -w net.netfilter.nf_conntrack_max=1048576",
            )
        )
    early = after.conntrack_early - before.conntrack_early
    if early:
        what = f"connection tracking evicted {early} connections during this examination"
        found.append(
            warning(
                COUNTERS,
                what,
                "its table is full, and it evicts half-open connections to make room",
                "sysctl -w net.netfilter.nf_conntrack_max=1048576",
            )
        )
    return found or [past for past in [_past(after)] if past is not None]


def _past(counts: Counts) -> Finding | None:
    """A note about what the kernel counted since the boot but not during the examination."""
    names: Mapping[str, int] = {
        "dropped by connection tracking": counts.conntrack_dropped,
        "refused by the reverse path filter": counts.reverse_path,
        "connections evicted": counts.conntrack_early,
    }
    counted = ", ".join(f"{count} {name}" for name, count in names.items() if count)
    return (
        note(
            COUNTERS,
            f"since the boot: {counted}; none during this examination",
            "the table was full, or routes were asymmetric, in the past",
        )
        if counted
        else None
    )
