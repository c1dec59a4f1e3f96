"""Translates between kazoo's values and those of the port and of `acl`."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from kazoo.client import TransactionRequest
from kazoo.exceptions import (
    BadVersionError,
    ConnectionClosedError,
    ConnectionLoss,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    OperationTimeoutError,
    RolledBackError,
    RuntimeInconsistency,
    SessionExpiredError,
    SessionMovedError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.security import ACL, Id

from maglev0.coordination.acl import AclEntry
from maglev0.errors import ZooKeeperError
from maglev0.protocol.ports.zookeeper import (
    Create,
    Delete,
    Disconnected,
    Operation,
    Reason,
    Refused,
    Stat,
    VersionGuard,
    Write,
    Znode,
)

AWAY = (
    ConnectionLoss,
    ConnectionClosedError,
    SessionExpiredError,
    SessionMovedError,
    OperationTimeoutError,
    KazooTimeoutError,
    TimeoutError,
)
"""What kazoo raises when a request got no answer."""
UNDECODABLE = (LookupError, RuntimeError, ValueError, struct.error)
"""What kazoo raises on answers that it cannot decode."""


def stat(found: Any) -> Stat:
    """Return the port's stat."""
    return Stat(
        found.czxid, found.mzxid, found.pzxid, found.version, found.cversion, found.ephemeralOwner
    )


def node(found: tuple[bytes, Any], *, ours: bool = True) -> Znode:
    """Return the port's znode for data and stat."""
    return Znode(bytes(found[0]), stat(found[1]), ours)


def entries(acl: Iterable[ACL]) -> list[AclEntry]:
    """Return the entries of an ACL that was read."""
    return [AclEntry(entry.perms, entry.id.scheme, entry.id.id) for entry in acl]


def acl(own: Iterable[AclEntry]) -> list[ACL]:
    """Return kazoo's ACL of these entries, to create with."""
    return [ACL(entry.perms, Id(entry.scheme, entry.id)) for entry in own]


def add(transaction: TransactionRequest, operation: Operation, acl_: list[ACL]) -> None:
    """Add an operation to a transaction; a znode that it creates gets this ACL."""
    match operation:
        case Create(path, data, ephemeral):
            transaction.create(path, data, acl=acl_, ephemeral=ephemeral)
        case Write(path, data, version):
            transaction.set_data(path, data, version)
        case Delete(path, version):
            transaction.delete(path, version)
        case VersionGuard(path, version):
            transaction.check(path, version)


def no_rights(answers: list[Any]) -> int | None:
    """The index of the operation that an ACL forbade; `None` if there is none."""
    return next(
        (
            index
            for index, answer in enumerate(answers)
            if isinstance(answer, NoAuthError | InvalidACLError)
        ),
        None,
    )


def zxid(answers: list[Any]) -> int:
    """Return the zxid of a transaction, which its writes show; 0 for one without writes.

    Raises Refused, Disconnected or ZooKeeperError if it did not take place.
    """
    for index, answer in enumerate(answers):
        if isinstance(answer, NodeExistsError | NoNodeError | BadVersionError):
            reason = Reason(
                isinstance(answer, NodeExistsError),
                isinstance(answer, NoNodeError),
                isinstance(answer, BadVersionError),
            )
            raise Refused(index, reason) from answer
    failures = [answer for answer in answers if isinstance(answer, Exception)]
    for failure in failures:
        # These two belong to the other operations of a transaction with a failed one.
        if not isinstance(failure, RolledBackError | RuntimeInconsistency):
            raise ZooKeeperError(
                f"using ZooKeeper: {type(failure).__name__}: {failure}"
            ) from failure
    if failures:
        raise Disconnected
    return max((int(answer.mzxid) for answer in answers if hasattr(answer, "mzxid")), default=0)
