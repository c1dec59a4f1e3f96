"""The errors for a node that ZooKeeper's servers or ACLs refuse: what is refused, and the fix.

Pure: imports no I/O.
"""

from __future__ import annotations

from maglev0.config.zookeeper_access import X509, ZooKeeperAccess
from maglev0.errors import ZooKeeperError


def not_admitted(access: ZooKeeperAccess, refusal: str) -> ZooKeeperError:
    """The servers refuse the user of --zk-auth for good."""
    return ZooKeeperError(
        f"the ZooKeeper servers refuse user {access.user} of --zk-auth ({refusal}): "
        "correct the flag, the password file or the servers"
    )


def no_identity(access: ZooKeeperAccess) -> ZooKeeperError:
    """The servers let this node in, but give it no identity of its scheme."""
    if access.identity_scheme == X509:
        return ZooKeeperError(
            "using ZooKeeper: the servers take no identity from --zk-cert: "
            "set ssl.clientAuth=need and authProvider.x509 there, or give --zk-auth"
        )
    return ZooKeeperError(
        f"using ZooKeeper: the servers take no identity from --zk-auth={access.scheme}: "
        "configure this scheme there, or use the other one"
    )


def no_access(access: ZooKeeperAccess, error: str, path: str) -> ZooKeeperError:
    """An ACL forbids this node to use a znode; `error` is the name of kazoo's error."""
    return ZooKeeperError(
        f"using ZooKeeper: {error}: an ACL keeps this node out of {path}: {_fix(access)}"
    )


def _fix(access: ZooKeeperAccess) -> str:
    if access.identity_scheme is None:
        return "give --zk-auth, or another /chroot in --zk"
    flag = "--zk-cert" if access.scheme is None else "--zk-auth"
    return (
        f"give the identity of {flag} the rights, correct {flag} (all nodes of the cluster have "
        "the same), or give another /chroot in --zk"
    )
