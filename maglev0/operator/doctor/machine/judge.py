"""Whether this machine's kernel, its rights, its connection tracking and its clocks can carry a node.

Pure: imports no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from maglev0.operator.doctor.finding import Finding, fault, judged, left_out, note, warning

DATAPLANE = "dataplane"
GUARD = "rules kept from others"
XDP = "XDP"
CONNTRACK = "connection tracking"
CONNTRACK_TIME = "connection tracking, idle connections"
CLOCK = "clock"
NEARLY_FULL = 0.8  # of the table; from there a flood of SYNs needs seconds to fill it
KEEPALIVE_S = 7440  # a connection may rest for so long between two keepalives (RFC 5382, REQ-5)
_OWNED_TABLES = (6, 9)  # the kernel from which on nobody else can flush our tables


@dataclass(frozen=True)
class Conntrack:
    """Connection tracking of this network namespace: its entries, how many there may be, how long it remembers an idle TCP connection."""

    count: int
    most: int
    established_s: int


@dataclass(frozen=True)
class MachineReading:
    """What the machine says of itself. `unable` says why no dataplane can run here, `without_xdp` why XDP cannot; empty where they can.

    `suspended_s` is how long the machine has slept since its boot, `synchronised` whether something keeps its clock right (None: unknown).
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
    """What the kernel counts in this network namespace, and how far its clocks are ahead of CLOCK_MONOTONIC (boot time, real time), at one time."""

    conntrack_dropped: int = 0
    conntrack_early: int = 0
    reverse_path: int = 0
    ahead_s: tuple[float, float] = (0.0, 0.0)


def judge(kernel: MachineReading) -> list[Finding]:
    """Judge one look at the machine."""
    return [
        *judged(DATAPLANE, "a dataplane can run here", _dataplane(kernel)),
        *judged(GUARD, "other programs cannot flush the rules", _guard(kernel)),
        *judged(XDP, "XDP can refuse foreign packets here", _xdp(kernel)),
        *_conntrack(kernel.conntrack),
        *judged(
            CLOCK,
            "the clock is kept right, and this machine never slept",
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
    why = "`nft flush ruleset`, as each reload of Debian's nftables.conf begins, leaves this node answering for everybody until they are restored"
    what = f"Linux {kernel.release} lets other programs flush the daemon's rules; from 6.9 on it does not"
    return note(GUARD, what, why, "let other programs delete and reload their own tables only")


def version(release: str) -> tuple[int, ...]:
    """The first two numbers of a kernel's release."""
    return tuple(int(number) for number in re.findall(r"\d+", release)[:2])


def _xdp(kernel: MachineReading) -> Finding | None:
    if not kernel.without_xdp:
        return None
    return note(
        XDP,
        f"no XDP here: {kernel.without_xdp}",
        "foreign packets cost this node several times as much; nothing else changes",
    )


def _conntrack(found: Conntrack | None) -> list[Finding]:
    if found is None:
        return [
            left_out(
                CONNTRACK,
                "connection tracking is not loaded yet: it is once the daemon has its rules in place",
            )
        ]
    full = f"connection tracking holds {found.count} of at most {found.most} entries"
    why = "a full table drops new connections, though this node owns their share"
    mend = f"sysctl -w net.netfilter.nf_conntrack_max={2 * found.most}"
    worst = fault if found.count >= found.most else warning
    nearly = worst(CONNTRACK, full, why, mend) if found.count >= NEARLY_FULL * found.most else None
    forgets = f"connection tracking forgets a TCP connection that rests for {found.established_s} s"
    why = "its next packet then belongs to no connection, and is dropped in silence: keepalives come every 7200 s"
    mend = "sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established=432000"
    short = (
        warning(CONNTRACK_TIME, forgets, why, mend) if found.established_s < KEEPALIVE_S else None
    )
    return [
        *judged(CONNTRACK, full, nearly),
        *judged(CONNTRACK_TIME, "they outlast two keepalives", short),
    ]


def _synchronised(kernel: MachineReading) -> Finding | None:
    if kernel.synchronised is not False:
        return None
    why = "whoever sets it right in one step ends this node's lease for a moment: a stepped clock cannot be told from a resumed machine's"
    return note(
        CLOCK,
        "nothing keeps this machine's clock synchronised, by the kernel's own word",
        why,
        "apt install chrony",
    )


def _suspended(kernel: MachineReading) -> Finding | None:
    if kernel.suspended_s < 1:
        return None
    why = "a machine that sleeps has stopped clocks, its lease's among them: once resumed it may answer beside the new owner"
    what = f"this machine has been suspended, for {kernel.suspended_s:.0f} s since its boot"
    return warning(
        CLOCK,
        what,
        why,
        "systemctl mask sleep.target suspend.target hibernate.target hybrid-sleep.target",
    )


COUNTERS = "packets dropped by the kernel"
STEPS = "clock steps"
STEP_S = 0.05  # slewing changes the distance of two clocks by 0.5 ms in a second


def moved(before: Counts, after: Counts, interface: str) -> list[Finding]:
    """Judge what changed while the other checks ran."""
    steps = [new - old for new, old in zip(after.ahead_s, before.ahead_s, strict=True)]
    step_s = max(steps, key=abs)
    stepped = fault(
        STEPS,
        f"the clock jumped by {step_s:+.2f} s while it was looked at",
        "each jump ends this node's lease until the next renewal, for it may have been a suspended machine's",
        "have the time daemon slew the clock, and step it at boot alone (chrony: makestep 1 3)",
    )
    return [
        *judged(COUNTERS, "none was counted while this ran", *_dropped(before, after, interface)),
        *judged(STEPS, "none while this ran", stepped if abs(step_s) > STEP_S else None),
    ]


def _dropped(before: Counts, after: Counts, interface: str) -> list[Finding]:
    found = []
    reverse = after.reverse_path - before.reverse_path
    if reverse:
        what = f"the reverse path filter dropped {reverse} packets within this time"
        why = "packets whose source this host would answer by another interface are thrown away unseen; those for the VIP may be among them"
        found.append(
            warning(COUNTERS, what, why, f"sysctl -w net.ipv4.conf.{interface}.rp_filter=2")
        )
    lost = after.conntrack_dropped - before.conntrack_dropped
    if lost:
        what = f"connection tracking dropped {lost} packets within this time"
        found.append(
            fault(
                COUNTERS,
                what,
                "its table is full or out of memory: new connections fail",
                "sysctl -w net.netfilter.nf_conntrack_max=1048576",
            )
        )
    early = after.conntrack_early - before.conntrack_early
    if early:
        what = f"connection tracking made room by forgetting {early} connections within this time"
        found.append(
            warning(
                COUNTERS,
                what,
                "its table is full: half-open connections give way",
                "sysctl -w net.netfilter.nf_conntrack_max=1048576",
            )
        )
    return found or [past for past in [_past(after)] if past is not None]


def _past(counts: Counts) -> Finding | None:
    """What was counted since the boot, and does not go on."""
    names: Mapping[str, int] = {
        "dropped by connection tracking": counts.conntrack_dropped,
        "refused by the reverse path filter": counts.reverse_path,
        "connections forgotten early": counts.conntrack_early,
    }
    told = ", ".join(f"{count} {name}" for name, count in names.items() if count)
    return (
        note(
            COUNTERS,
            f"since the boot: {told}; none while this ran",
            "they tell of a full table or of asymmetric routes in the past",
        )
        if told
        else None
    )
