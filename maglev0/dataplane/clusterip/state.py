"""Reads what a kernel has in force for a VIP by a CLUSTERIP rule, whichever process serves it.

Changes nothing.
"""

from __future__ import annotations

import math
import re
import struct
import time
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from maglev0.core.service import Service
from maglev0.core.settings import CLUSTERIP_LEASE_MS, Settings
from maglev0.dataplane import rights
from maglev0.dataplane.clusterip import guard, proc_file, xtables
from maglev0.dataplane.clusterip import rule as clusterip_rule
from maglev0.dataplane.clusterip.dataplane import ClusterIP
from maglev0.dataplane.host import address
from maglev0.dataplane.host.link import find_link
from maglev0.dataplane.verdict import ClusterIPKernel, InterfaceFacts
from maglev0.errors import DataplaneError

# The kernel's own clock, in which the lists of xt_recent count; nothing else shows it to a process.
_TIMERS = Path("/proc/timer_list")
_JIFFIES = re.compile(r"^jiffies: (\d+)$", re.MULTILINE)
_NOW = re.compile(r"^now at (\d+) nsecs$", re.MULTILINE)
_RATES_HZ = (100, 250, 300, 1000)  # kernel/Kconfig.hz
_MEASURED_S = 0.1  # at least ten ticks, enough to tell these rates apart
_LONG_BITS = 8 * struct.calcsize("L")  # the lists show an unsigned long of that clock


async def read(settings: Settings, vip: IPv4Address) -> ClusterIPKernel:
    """Read the rule and its guard in the network namespace of the calling thread.

    Raises `DataplaneError` when the state cannot be told: no rights, no rule, or rules that do not
    match this version and these settings.
    """
    rights.require("reading the CLUSTERIP rule")
    if not proc_file.is_set_up(vip):
        raise DataplaneError(
            f"there is no CLUSTERIP rule for {vip} in this network namespace, so no daemon serves "
            "it here"
        )
    lease_s = settings.lease_ms // CLUSTERIP_LEASE_MS
    service, guarded = _carried_out(settings, vip, lease_s)
    link = await find_link(service.interface)
    return ClusterIPKernel(
        service=service,
        host=InterfaceFacts(link.up, await address.is_held(vip)),
        in_force=await ClusterIP(service, settings.lease_ms).owned(),
        guarded=guarded,
        lease_left_s=_lease_left_s(vip, lease_s) if guarded else -math.inf,
    )


def _carried_out(settings: Settings, vip: IPv4Address, lease_s: int) -> tuple[Service, bool]:
    """Return the service that the rule carries out, and whether the guard is in place."""
    with xtables.reading() as table:
        found = [rule.service for rule in clusterip_rule.rules_of(table, vip) if rule.is_new]
        guarded = bool(found) and guard.is_in_place(table, found[0], lease_s)
    if not found or found[0] != settings.service(vip, found[0].interface):
        raise DataplaneError(
            f"the CLUSTERIP rule of {vip} is not for the cluster's settings: iptables-legacy -S "
            "shows it"
        )
    if not guarded and guard.left_something(vip):
        raise DataplaneError(f"another program has changed the guard rules of {vip}")
    return found[0], guarded


class _LeaseSlot(NamedTuple):
    marked: bool
    started: int | None  # jiffies


def _lease_left_s(vip: IPv4Address, lease_s: int) -> float:
    """Return how long a marked timer still runs, in seconds.

    Negative when it has run out, minus infinity without a timer. The kernel counts up to and
    including the end.
    """
    starts = [
        slot.started
        for slot in (_slot(vip, number) for number in guard.SLOTS)
        if slot.marked and slot.started is not None
    ]
    if not starts:
        return -math.inf
    rate_hz = _rate_hz()
    now = _clock().jiffies
    return max(lease_s - (now - started) % (1 << _LONG_BITS) / rate_hz for started in starts)


def _slot(vip: IPv4Address, number: int) -> _LeaseSlot:
    mark, timer = guard.mark(vip, number), guard.timer(vip, number)
    return _LeaseSlot(guard.last_written(mark, vip) is not None, guard.last_written(timer, vip))


class _Clock(NamedTuple):
    jiffies: int
    nanoseconds: int


def _clock() -> _Clock:
    try:
        text = _TIMERS.read_text("ascii", "replace")
    except OSError as error:
        raise DataplaneError(
            f"reading the kernel's clock from {_TIMERS}: {error.strerror}; whether the lease runs "
            "cannot be told"
        ) from error
    jiffies, now = _JIFFIES.search(text), _NOW.search(text)
    if jiffies is None or now is None:
        raise DataplaneError(f"reading the kernel's clock: {_TIMERS} does not show it")
    return _Clock(int(jiffies[1]) % (1 << _LONG_BITS), int(now[1]))


@cache
def _rate_hz() -> int:
    """Measure how often this kernel's clock ticks in a second; no file says it."""
    first = _clock()
    time.sleep(_MEASURED_S)
    second = _clock()
    measured = (second.jiffies - first.jiffies) * 1e9 / (second.nanoseconds - first.nanoseconds)
    return min(_RATES_HZ, key=lambda rate: abs(rate - measured))
