"""Reads and changes the legacy filter table by python-iptables.

Every reading is a new one, every change one transaction under the lock of the iptables programs.
Rules are handled as the kernel's own bytes: struct ipt_entry with its matches and its target, laid
out as in include/uapi/linux/netfilter_ipv4/ip_tables.h and netfilter/x_tables.h of Linux 6.2. So no
rule of another program can stop the daemon.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from maglev0.errors import DataplaneError, UnavailableError

MARK = "maglev0"  # the comment of a rule that a daemon inserted
# iptables programs hold the lock for milliseconds. The daemon's loop stands still meanwhile, so it
# waits for at most a quarter of a second.
LOCK_TRIES = 25
LOCK_RETRY_S = 0.01

EXTENSION = struct.Struct("=H29sB")  # head of a match or target: size with its data, name, revision
ENTRY_SIZE = 112  # struct ipt_entry; matches and target follow
_OFFSETS = struct.Struct("=HH")  # of the target and of the next entry, at 88
_OFFSETS_AT = 88
_COUNTERS = struct.Struct("=QQ")  # struct xt_counters: packets and bytes, at 96
_COUNTERS_AT = 96
_JUDGED = (
    # the part of an entry that decides about packets ends here; caches, offsets and counters follow
    84
)
_IP = struct.Struct(
    "=4s4s4s4s16s16s16s16sHBB"
)  # struct ipt_ip: addresses, masks, interfaces, their masks, protocol, flags, inversions
_COMMENT_BYTES = 256  # XT_MAX_COMMENT_LEN
_VERDICT = bytes(4)  # of a standard target; libiptc fills it in by the target's name
_ALIGNMENT = 8


class Match(NamedTuple):
    """One match of a rule."""

    name: str
    revision: int
    data: bytes


class Rule(NamedTuple):
    """One rule: `raw` is its struct ipt_entry with all that follows.

    `target` is the name of an extension, a chain or a verdict.
    """

    chain: str
    raw: bytes
    target: str

    @property
    def target_offset(self) -> int:
        """The offset in `raw` at which the matches end and the target begins."""
        return int(_OFFSETS.unpack_from(self.raw, _OFFSETS_AT)[0])

    @property
    def counted(self) -> tuple[int, int]:
        """The packets that the rule matched, and their bytes."""
        packets, size = _COUNTERS.unpack_from(self.raw, _COUNTERS_AT)
        return int(packets), int(size)

    @property
    def matches(self) -> tuple[Match, ...]:
        """The rule's matches, in their order."""
        found = []
        offset = ENTRY_SIZE
        while offset < self.target_offset:
            size, name, revision = EXTENSION.unpack_from(self.raw, offset)
            # The kernel copies only the name, so what follows its final zero is old memory.
            found.append(
                Match(text(name), revision, self.raw[offset + EXTENSION.size : offset + size])
            )
            offset += size
        return tuple(found)

    @property
    def judging(self) -> tuple[str, bytes, tuple[Match, ...], str]:
        """The bytes that two rules share exactly when they judge alike in the same chain."""
        return self.chain, self.raw[:_JUDGED], self.matches, self.target


def load_iptc() -> Any:
    """Import python-iptables when it is needed: importing it loads C libraries and takes 14 MB."""
    try:
        import iptc  # noqa: PLC0415
    except (
        ImportError,
        OSError,
        AttributeError,
        TypeError,
    ) as error:  # the last two: what it raises where a library is not found
        raise UnavailableError(
            f"clusterip needs python-iptables and the libraries of legacy iptables: apt install "
            f"iptables ({error})"
        ) from error
    return iptc


@contextlib.contextmanager
def _xtables_lock() -> Iterator[None]:
    """Hold the lock of the iptables programs.

    Each change rewrites the whole table and would undo changes that they make meanwhile.
    """
    path = os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
    except OSError as error:
        raise DataplaneError(f"opening {path}: {error.strerror}") from error
    with os.fdopen(descriptor) as lock:
        for _ in range(LOCK_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(LOCK_RETRY_S)
        else:
            raise DataplaneError(f"another program keeps {path} locked: fuser -v {path} names it")
        yield


@contextlib.contextmanager
def reading() -> Iterator[Any]:
    """Read the legacy filter table of this thread's namespace.

    It takes no lock: the kernel hands out a whole table, and a node that lacks nothing need not
    wait. python-iptables keeps one object per table name, whose handle belongs to the namespace of
    its last refresh.
    """
    iptc = load_iptc()
    try:
        table = iptc.Table(iptc.Table.FILTER, autocommit=False)
        table.refresh()
        try:
            yield table
        finally:
            table.close()
    except (iptc.IPTCError, iptc.XTablesError, OSError) as error:
        raise DataplaneError(f"the legacy iptables rules: {error}") from error


@contextlib.contextmanager
def changing() -> Iterator[Any]:
    """Yield the table under the lock.

    Changes come into force together when the block ends without an error.
    """
    with _xtables_lock(), reading() as table:
        yield table
        table.commit()


def rules(table: Any, chain: str) -> list[Rule]:
    """Return the rules of a chain, in their order; none when the chain does not exist."""
    found: list[Rule] = []
    entry = table.first_rule(chain) if table.is_chain(chain) else None
    while entry:
        raw = ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
        found.append(Rule(chain, raw, (table.get_target(entry) or b"").decode("utf-8", "replace")))
        entry = table.next_rule(entry)
    return found


def insert(table: Any, rule: Rule, position: int) -> None:
    """Insert a rule at a position, counted from 0; the position after the last appends it."""
    table.insert_entry(rule.chain, _buffer(rule.raw), position)


def delete(table: Any, rule: Rule) -> None:
    """Delete a rule that was read; its target may be an extension, a chain or a verdict."""
    head = bytearray(rule.raw)
    # In the kernel the name of a chain or verdict is empty, and the number after it says all;
    # libiptc uses the name.
    size, _, revision = EXTENSION.unpack_from(head, rule.target_offset)
    EXTENSION.pack_into(head, rule.target_offset, size, rule.target.encode(), revision)
    table.delete_entry(rule.chain, _buffer(bytes(head)), _buffer(b"\xff" * len(head)))


def _buffer(raw: bytes) -> Any:
    return (ctypes.c_ubyte * len(raw)).from_buffer_copy(raw)


def for_destination(vip: IPv4Address, interface: str) -> bytes:
    """Return the head of a rule for what arrives for one address on one interface."""
    name = interface.encode()
    mask = b"\xff" * (
        len(name) + 1
    )  # with the final zero: this interface only, and none whose name begins like that
    return _IP.pack(b"", vip.packed, b"", b"\xff" * 4, name, b"", mask, b"", 0, 0, 0)


EVERYTHING = bytes(_IP.size)  # the head of a rule for every packet


def compose(chain: str, head: bytes, matches: bytes, target: str) -> Rule:
    """Build a rule whose target is a verdict or a chain."""
    goal = extension(target, _VERDICT)
    target_offset = ENTRY_SIZE + len(matches)
    offsets = _OFFSETS.pack(target_offset, target_offset + len(goal))
    entry = (head.ljust(_OFFSETS_AT, b"\0") + offsets).ljust(ENTRY_SIZE, b"\0")
    return Rule(chain, entry + matches + goal, target)


def extension(name: str, data: bytes, revision: int = 0) -> bytes:
    """Build a match or target of a rule, padded as the kernel wants it."""
    size = -(-(EXTENSION.size + len(data)) // _ALIGNMENT) * _ALIGNMENT
    return (EXTENSION.pack(size, name.encode(), revision) + data).ljust(size, b"\0")


def comment(words: str) -> bytes:
    """Build the match that matches every packet and carries a comment."""
    return extension("comment", words.encode().ljust(_COMMENT_BYTES, b"\0"))


def text(field: bytes) -> str:
    """Read a C string."""
    return field.partition(b"\0")[0].decode("utf-8", "replace")
