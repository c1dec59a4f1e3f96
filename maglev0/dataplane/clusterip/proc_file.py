"""The file in /proc that says which buckets of a CLUSTERIP rule are in force."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address
from pathlib import Path

from maglev0.errors import DataplaneError

# /proc/net leads to the namespace of the process's first thread; netlink and iptables act in that
# of the calling thread.
PROC_DIR = Path("/proc/thread-self/net/ipt_CLUSTERIP")
# By error number: what the target means by it; elsewhere these numbers mean something else.
_WRITE_FAILURES = {
    errno.ENOMEM: "that bucket is in force already, or it is not one of the rule's total nodes",
    errno.ENOENT: "that bucket is not in force, or the rule is gone",
}


def is_set_up(vip: IPv4Address) -> bool:
    """Whether a CLUSTERIP rule for the VIP is in force in this network namespace, of any origin."""
    return _path(vip).exists()


def _path(vip: IPv4Address) -> Path:
    return PROC_DIR / str(vip)


def read(vip: IPv4Address) -> frozenset[int]:
    """Return the buckets in force; DataplaneError when the rule is gone."""
    path = _path(vip)
    try:
        text = path.read_text("ascii")
    except FileNotFoundError as error:
        raise DataplaneError(
            f"reading the owned buckets of {vip}: the CLUSTERIP rule is gone"
        ) from error
    except OSError as error:
        raise DataplaneError(f"reading {path}: {error.strerror}") from error
    return frozenset(int(number) for number in text.strip().split(",") if number)


def empty(vip: IPv4Address) -> None:
    """Put no bucket in force."""
    write(vip, frozenset())


def write(vip: IPv4Address, wanted: frozenset[int]) -> bool:
    """Write the differences, removals first; return whether there were any.

    So a bucket has no owner for an instant, and never two.
    """
    present = read(vip)
    for operation in (
        *(f"-{bucket}" for bucket in sorted(present - wanted)),
        *(f"+{bucket}" for bucket in sorted(wanted - present)),
    ):
        write_operation(vip, operation)
    return present != wanted


def write_operation(vip: IPv4Address, operation: str) -> None:
    """Write one operation, as +3 or -3; DataplaneError when the target refuses it."""
    path = _path(vip)
    try:
        # unbuffered: the target takes one operation per write
        with path.open("r+b", buffering=0) as file:
            file.write(operation.encode("ascii"))
    except OSError as error:
        cause = _WRITE_FAILURES.get(error.errno or 0, error.strerror)
        raise DataplaneError(f"writing {operation} to {path}: {cause}") from error
