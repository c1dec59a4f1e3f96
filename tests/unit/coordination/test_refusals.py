from __future__ import annotations

import pytest

from maglev0.config.zookeeper_access import DIGEST, ZooKeeperAccess
from maglev0.coordination.refusals import no_access, no_identity, not_admitted
from maglev0.errors import ZooKeeperError

NOBODY = ZooKeeperAccess()
FILE = "/etc/maglev0/zk.secret"
BY_PASSWORD = ZooKeeperAccess(scheme=DIGEST, user="node", password_file=FILE)
BY_CERTIFICATE = ZooKeeperAccess(ca="/etc/ca.pem", cert="/etc/node.pem", key="/etc/node.pem")


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (not_admitted(BY_PASSWORD, "bad password"), "correct the flag, the password file"),
        (no_identity(BY_PASSWORD), "configure this scheme there, or use the other one"),
        (no_identity(BY_CERTIFICATE), "set ssl.clientAuth=need and authProvider.x509 there"),
        (no_access(NOBODY, "NoAuthError", "/maglev0"), "give --zk-auth, or another /chroot"),
        (no_access(BY_PASSWORD, "NoAuthError", "/maglev0"), "correct --zk-auth (all nodes"),
        (no_access(BY_CERTIFICATE, "NoAuthError", "/maglev0"), "correct --zk-cert (all nodes"),
    ],
)
def test_a_refusal_is_one_line_that_names_the_fix_and_no_file_of_a_secret(
    error: ZooKeeperError, fix: str
) -> None:
    assert fix in str(error)
    assert "\n" not in str(error)
    assert BY_PASSWORD.password_file not in str(error)


def test_a_refusal_by_an_acl_names_the_znode_and_the_error() -> None:
    assert "NoAuthError: an ACL keeps this node out of /maglev0" in str(
        no_access(NOBODY, "NoAuthError", "/maglev0")
    )
