"""The guard in front of a CLUSTERIP rule: without a lease it drops what arrives for the VIP.

    -A INPUT -d VIP/32 -i IFACE -m comment --comment maglev0 -j maglev0-VIP
    -A maglev0-VIP -m recent --rcheck --name maglev0-VIP-mark0
        -m recent --rcheck --seconds S --name maglev0-VIP-timer0 -j RETURN
    -A maglev0-VIP -m recent --rcheck --name maglev0-VIP-mark1
        -m recent --rcheck --seconds S --name maglev0-VIP-timer1 -j RETURN
    -A maglev0-VIP -j DROP

The kernel ends the lease by itself. `recent` (net/netfilter/xt_recent.c of Linux 6.1) keeps lists
of addresses, each with the jiffy in which /proc/net/xt_recent last wrote it there. A slot of the
lease is two lists: the timer, and the mark that this timer is in force. A timer is started only in
a slot without a mark. So a process that is paused, wherever and however long, loses time that the
kernel counts. A loss of any part (a mark, an entry for which there was no memory, the rules with
their lists) ends the lease.

A timer that was started in jiffy j counts up to and including jiffy j + S * HZ: S seconds, and at
most one tick (4 ms at 250 Hz).
"""

from __future__ import annotations

import errno
import struct
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from maglev0.core.service import Service
from maglev0.dataplane.clusterip import rule as clusterip_rule
from maglev0.dataplane.clusterip import xtables
from maglev0.errors import DataplaneError
from maglev0.protocol.ports.readings import Count

SLOTS = (0, 1)

LISTS_DIR = Path("/proc/thread-self/net/xt_recent")  # not /proc/net: see `dataplane`
# struct xt_recent_mtinfo_v1: seconds, hit count, flags, inversion, name, side, mask
_RECENT = struct.Struct("=IIBB200sBx16s")
_REVISION = 1
_CHECK = 1  # XT_RECENT_CHECK: --rcheck
_DESTINATION = 1  # XT_RECENT_DEST: --rdest
_WHOLE_ADDRESS = b"\xff" * 16
# --rcheck wants one hit in any case. Stated explicitly, it makes the list keep one time per address
# instead of 256, which the kernel would all look through for each packet.
_HIT_COUNT = 1


def is_there(vip: IPv4Address) -> bool:
    """Whether all lists of the guard exist.

    They exist as long as rules use them. Cheap, unlike `is_in_place`.
    """
    return all(path.exists() for path in _lists(vip))


def left_something(vip: IPv4Address) -> bool:
    """Whether any list of a guard exists."""
    return any(path.exists() for path in _lists(vip))


def is_in_place(table: Any, service: Service, lease_s: int) -> bool:
    """Whether the guard is complete, of that length, and before the CLUSTERIP rules in INPUT."""
    present = xtables.rules(table, _chain(service.vip))
    if [rule.judging for rule in present] != [rule.judging for rule in _body(service.vip, lease_s)]:
        return False
    jump = _jump(service).judging
    for rule in xtables.rules(table, "INPUT"):
        if rule.judging == jump:
            return True
        if clusterip_rule.decode(rule, service.vip) is not None:
            return False
    return False


def counted(table: Any, vip: IPv4Address) -> tuple[Count, Count]:
    """Return what the guard let pass, and what it dropped, since it was inserted."""
    rules = xtables.rules(table, _chain(vip))
    passed, dropped = (
        [rule.counted for rule in rules if rule.target == target] for target in ("RETURN", "DROP")
    )
    return _sum(passed), _sum(dropped)


def _sum(counts: list[tuple[int, int]]) -> Count:
    return Count(sum(packets for packets, _size in counts), sum(size for _packets, size in counts))


def put_first(table: Any, service: Service, lease_s: int) -> None:
    """Put the guard at the head of INPUT, replacing any part of one.

    Call `end` before: old times must not count under another length.
    """
    delete(table, service.vip)
    table.create_chain(_chain(service.vip))
    for position, rule in enumerate(_body(service.vip, lease_s)):
        xtables.insert(table, rule, position)
    xtables.insert(table, _jump(service), 0)


def delete(table: Any, vip: IPv4Address) -> None:
    """Delete the guard of the VIP, with all rules that lead to it."""
    name = _chain(vip)
    if not table.is_chain(name):
        return
    for chain in table.chains:
        for rule in xtables.rules(table, chain.name):
            if rule.target == name:
                xtables.delete(table, rule)
    table.flush_entries(name)
    table.delete_chain(name)


def arm(vip: IPv4Address) -> int:
    """Start the timer of the slot that is not in force; return that slot."""
    slot = _free_slot(vip)
    _write(timer(vip, slot), f"+{vip}")
    return slot


def promote(vip: IPv4Address, slot: int) -> None:
    """Put that slot in force, then the other one out of force.

    For an instant both are; each is a lease that this node was given.
    """
    _write(mark(vip, slot), f"+{vip}")
    _write(mark(vip, 1 - slot), f"-{vip}")


def end(vip: IPv4Address) -> None:
    """End the lease now; DataplaneError when a list is missing, because no guard exists then."""
    for path in _lists(vip):
        _write(path, f"-{vip}")


def end_what_is_left(vip: IPv4Address) -> None:
    """End the lease in every list that exists."""
    for path in _lists(vip):
        if path.exists():
            _write(path, f"-{vip}")


def _free_slot(vip: IPv4Address) -> int:
    marked = [slot for slot in SLOTS if last_written(mark(vip, slot), vip) is not None]
    if len(marked) < len(SLOTS):
        return 1 - marked[0] if marked else 0
    # A promotion was interrupted; it was to replace the earlier timer.
    earlier = min(SLOTS, key=lambda slot: last_written(timer(vip, slot), vip) or 0)
    _write(mark(vip, earlier), f"-{vip}")
    return earlier


def _chain(vip: IPv4Address) -> str:
    return f"{xtables.MARK}-{vip}"  # at most 23 characters of the 28 that a chain's name may have


def mark(vip: IPv4Address, slot: int) -> Path:
    """Return the list that holds the VIP while the slot is in force."""
    return LISTS_DIR / f"{_chain(vip)}-mark{slot}"


def timer(vip: IPv4Address, slot: int) -> Path:
    """Return the list that holds the VIP since the slot's timer was started."""
    return LISTS_DIR / f"{_chain(vip)}-timer{slot}"


def _lists(vip: IPv4Address) -> list[Path]:
    # Marks first: a timer alone is no lease.
    return [which(vip, slot) for which in (mark, timer) for slot in SLOTS]


def _jump(service: Service) -> xtables.Rule:
    head = xtables.for_destination(service.vip, service.interface)
    return xtables.compose("INPUT", head, xtables.comment(xtables.MARK), _chain(service.vip))


def _body(vip: IPv4Address, lease_s: int) -> list[xtables.Rule]:
    passes = [
        _recent(mark(vip, slot).name, 0) + _recent(timer(vip, slot).name, lease_s) for slot in SLOTS
    ]
    chain = _chain(vip)
    return [
        *(xtables.compose(chain, xtables.EVERYTHING, matches, "RETURN") for matches in passes),
        xtables.compose(chain, xtables.EVERYTHING, b"", "DROP"),
    ]


def _recent(name: str, seconds: int) -> bytes:
    """Return the match for a destination in the list, with `seconds` for at most that long."""
    data = _RECENT.pack(seconds, _HIT_COUNT, _CHECK, 0, name.encode(), _DESTINATION, _WHOLE_ADDRESS)
    return xtables.extension("recent", data, _REVISION)


def last_written(path: Path, vip: IPv4Address) -> int | None:
    """Return the jiffy in which the VIP was last written to the list; None when it is not there."""
    try:
        lines = path.read_text("ascii").splitlines()
    except OSError as error:
        raise _failure("reading", path, error) from error
    # src=198.51.100.1 ttl: 0 last_seen: 4294901234 oldest_pkt: 1 4294901234
    fields = next((line.split() for line in lines if line.startswith(f"src={vip} ")), None)
    return None if fields is None else int(fields[4])


def _write(path: Path, operation: str) -> None:
    try:
        with path.open(
            "r+b", buffering=0
        ) as file:  # unbuffered: one operation per write, at the beginning of the file
            file.write(operation.encode("ascii"))
    except OSError as error:
        raise _failure(f"writing {operation} to", path, error) from error


def _failure(doing: str, path: Path, error: OSError) -> DataplaneError:
    return DataplaneError(
        f"{doing} {path}: "
        f"{'the guard rules are gone' if error.errno == errno.ENOENT else error.strerror}"
    )
