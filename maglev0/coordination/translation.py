"""Between kazoo's values and those of `znodes` and `rights`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kazoo.client import TransactionRequest
from kazoo.exceptions import (
    BadVersionError,
    InvalidACLError,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
    RuntimeInconsistency,
)
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


def stat(found: Any) -> Stat:
    """A stat."""
    return Stat(
        found.czxid, found.mzxid, found.pzxid, found.version, found.cversion, found.ephemeralOwner
    )


def node(found: tuple[bytes, Any], *, ours: bool = True) -> Znode:
    """Data and stat of one znode."""
    return Znode(bytes(found[0]), stat(found[1]), ours)


def entries(acl: Iterable[ACL]) -> list[AclEntry]:
    """An ACL as it was read."""
    return [AclEntry(entry.perms, entry.id.scheme, entry.id.id) for entry in acl]


def acl(own: Iterable[AclEntry]) -> list[ACL]:
    """An ACL to create with."""
    return [ACL(entry.perms, Id(entry.scheme, entry.id)) for entry in own]


def add(transaction: TransactionRequest, operation: Operation, acl_: list[ACL]) -> None:
    """Put an operation into a transaction; what it creates gets that ACL."""
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
    """Which operation of a transaction an ACL forbade, `None` for none of them."""
    return next(
        (
            index
            for index, answer in enumerate(answers)
            if isinstance(answer, NoAuthError | InvalidACLError)
        ),
        None,
    )


def zxid(answers: list[Any]) -> int:
    """The zxid of a transaction that took place, as its writes tell it; raises what kept it from taking place."""
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
        if not isinstance(
            failure, RolledBackError | RuntimeInconsistency
        ):  # those two are of operations that stood beside the one that failed
            raise ZooKeeperError(
                f"using ZooKeeper: {type(failure).__name__}: {failure}"
            ) from failure
    if failures:
        raise Disconnected
    return max((int(answer.mzxid) for answer in answers if hasattr(answer, "mzxid")), default=0)
