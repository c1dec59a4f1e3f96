"""Who this node is to ZooKeeper, and how it knows ZooKeeper's servers: what the flags --zk-auth, --zk-ca, --zk-cert and --zk-key say.

Pure: imports no I/O. No secret is in these values, only where one lies.

With an identity, all znodes of a cluster are created so that this identity alone may read and change them, and what is not so is not counted.
The identity is the one user of --zk-auth or, without that, the subject of the client certificate; all nodes of a cluster have the same one.
Digest sends the password as it is to whoever listens at that address, so it belongs inside TLS.

What no ACL prevents: whoever reaches a port of ZooKeeper may learn the ids of sessions, and the password that takes a session over follows from
its id. Such a stranger cannot read or write as that member, but end its session, so that it has to join again. Servers that ask every client for
a certificate (``ssl.clientAuth=need``, and no port without TLS) keep strangers out altogether.

A cluster that was founded without an identity cannot take one on under way: its znodes are open, and nodes of both kinds would not count each
other. To move it, stop all its daemons, delete its znodes (``deleteall /maglev0/<vip>`` in zkCli.sh), and start the daemons with --zk-auth. The
settings are founded anew then: give --hash-seed and --cluster-mac where the old ones must stay. The same way leads to another user or password.
The znodes above /maglev0/<vip> may belong to anybody, as long as the identity may read them, and create there what is missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

DIGEST = "digest"
SASL = "sasl"
X509 = "x509"  # ZooKeeper's name for the identity in a client certificate
_AUTH = re.compile(
    rf"({DIGEST}|{SASL}):([A-Za-z0-9._-]{{1,64}}):(.+)", re.DOTALL
)  # a user with @ or / would be a Kerberos name to SASL


@dataclass(frozen=True)
class ZooKeeperAccess:
    """How to reach ZooKeeper: in the clear as nobody, by default. `scheme` is `DIGEST`, `SASL` or `None`; files are paths; with `ca` it is TLS."""

    scheme: str | None = None
    user: str = ""
    password_file: str = field(
        default="", repr=False
    )  # where somebody may have put the password itself
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @classmethod
    def checked(
        cls, auth: tuple[str, str, str] | None, ca: str | None, cert: str | None, key: str | None
    ) -> ZooKeeperAccess:
        """Put together what the flags said, `auth` as `parse_auth` returns it; ValueError names flags that do not go together."""
        if cert is None and key is not None:
            raise ValueError(
                "--zk-key needs --zk-cert: name the certificate that the key belongs to"
            )
        if cert is not None and key is None:
            raise ValueError(
                "--zk-cert needs --zk-key: name the file of its private key, which may be the same file"
            )
        if cert is not None and ca is None:
            raise ValueError(
                "--zk-cert needs --zk-ca: name the certificates by which ZooKeeper's servers are known"
            )
        scheme, user, password_file = auth or (None, "", "")
        return cls(scheme, user, password_file, ca, cert, key)

    @property
    def identity_scheme(self) -> str | None:
        """ZooKeeper's scheme of this node's identity, `None` where it has none."""
        return self.scheme or (X509 if self.cert else None)

    def __str__(self) -> str:
        how = "in the clear" if self.ca is None else "by TLS"
        who = {None: "nobody", X509: "its certificate's subject"}.get(
            self.identity_scheme, f"{self.scheme} user {self.user}"
        )
        return f"{how} as {who}"


NOBODY = ZooKeeperAccess()
"""In the clear, without an identity: what is created is open to everybody."""


def parse_auth(text: str) -> tuple[str, str, str]:
    """Read --zk-auth: scheme, user and password file. ValueError says what is allowed."""
    found = _AUTH.fullmatch(text)
    if not found or not text.isprintable():
        raise ValueError(
            f"allowed is {DIGEST}:USER:PASSWORD-FILE or {SASL}:USER:PASSWORD-FILE; a user is 1 to 64 letters, digits, dots, dashes and underscores"
        )
    return found[1], found[2], found[3]


def parse_file(text: str) -> str:
    """Read the path of a file, as --zk-ca takes it; ValueError says what is allowed."""
    if not text or not text.isprintable():
        raise ValueError("allowed is the path of a file")
    return text
