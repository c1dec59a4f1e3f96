"""Reads this machine's kernel, clocks, and the counters of this network namespace."""

from __future__ import annotations

import ctypes
import os
import struct
from ipaddress import IPv4Address
from pathlib import Path

from maglev0.core.service import HashFamily
from maglev0.dataplane import select
from maglev0.dataplane.xdp import filter as xdp_filter
from maglev0.dataplane.xdp.libbpf import Bpf
from maglev0.errors import DataplaneError, UnavailableError
from maglev0.operator.doctor.machine.judge import Conntrack, Counts, MachineReading
from maglev0.runtime import clocks

SYSCTL = Path("/proc/sys/net")
_NET = Path("/proc/thread-self/net")  # the namespace of the calling thread, unlike /proc/net
_MOUNTS = Path("/proc/thread-self/mounts")
_TIMEX_BYTES = 256  # struct timex is 208 bytes; a newer kernel may have more
_STATUS = struct.Struct(
    "@I4li"
)  # its first fields: modes, offset, freq, maxerror, esterror, status
_UNSYNCHRONISED = 0x40  # STA_UNSYNC, linux/timex.h


def read(vip: IPv4Address) -> MachineReading:
    """Read everything once; `vip` is the VIP for which a dataplane must be able to run."""
    families, unable = _runnable(vip)
    boot_ahead_s, _real_ahead_s = clocks.distances_s()
    return MachineReading(
        release=os.uname().release,
        unable=unable,
        clusterip=families[:1] == (HashFamily.CLUSTERIP,),
        without_xdp=_without_xdp(),
        conntrack=_conntrack(),
        suspended_s=boot_ahead_s,
        synchronised=_synchronised(),
    )


def number(path: Path) -> int | None:
    """The value of a sysctl; None if this kernel does not have it."""
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def counts() -> Counts:
    """The kernel's counters and clocks now."""
    return Counts(*_conntrack_counts(), _reverse_path(), clocks.distances_s())


def _runnable(vip: IPv4Address) -> tuple[tuple[HashFamily, ...], str]:
    try:
        return select.runnable(vip, None), ""
    except UnavailableError as error:
        return (), str(error)


def _without_xdp() -> str:
    mount_point = xdp_filter.file_system()
    if not any(
        line.split()[1:3] == [str(mount_point), "bpf"] for line in _MOUNTS.read_text().splitlines()
    ):
        return f"no BPF file system on {mount_point}; mount -t bpf bpf {mount_point}"
    try:
        Bpf()
    except DataplaneError as error:
        return str(error)
    return ""


def _conntrack() -> Conntrack | None:
    names = ("nf_conntrack_count", "nf_conntrack_max", "nf_conntrack_tcp_timeout_established")
    count, most, established_s = (number(SYSCTL / "netfilter" / name) for name in names)
    return (
        None
        if count is None or most is None or established_s is None
        else Conntrack(count, most, established_s)
    )


def _conntrack_counts() -> tuple[int, int]:
    """Packets dropped and connections evicted, summed over all processors."""
    try:
        names, *rows = [
            line.split()
            for line in (_NET / "stat" / "nf_conntrack").read_text("ascii").splitlines()
        ]
    except (OSError, ValueError):
        return 0, 0
    columns = {name: sum(int(row[place], 16) for row in rows) for place, name in enumerate(names)}
    return columns.get("drop", 0), columns.get("early_drop", 0)


def _reverse_path() -> int:
    lines = [line.split() for line in (_NET / "netstat").read_text("ascii").splitlines()]
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if "IPReversePathFilter" in names:
            return int(values[names.index("IPReversePathFilter")])
    return 0


def _synchronised() -> bool | None:
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes is 0, so adjtimex only reads
    if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
        return None
    status: int = _STATUS.unpack_from(timex.raw)[-1]
    return not status & _UNSYNCHRONISED
