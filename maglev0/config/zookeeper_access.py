"""How a node authenticates to ZooKeeper, and how it recognizes ZooKeeper's servers.

Pure: imports no I/O. The values hold no secret, only the paths of files with secrets. They come
from the flags --zk-auth, --zk-ca, --zk-cert and --zk-key.

With an identity, a node creates every znode of its cluster so that only this identity may read and
change it, and ignores znodes that others may change. The identity is the user of --zk-auth or,
without that flag, the subject of the client certificate. All nodes of a cluster have the same one.
Digest sends the password as it is to the server at that address, so it belongs inside TLS.

An ACL does not prevent this: a client that reaches a port of ZooKeeper may learn the ids of
sessions, and the password that takes a session over follows from its id. Such a client cannot read
or write as that member, but it can end the session, and the member has to join again. Servers that
demand a certificate from every client (``ssl.clientAuth=need``, and no port without TLS) keep such
clients out.

A cluster that was founded without an identity cannot get one while it runs: its znodes are open,
and nodes of both kinds ignore each other. To change it, stop all its daemons, delete its znodes
(``deleteall /maglev0/<vip>`` in zkCli.sh), and start the daemons with --zk-auth. The first node
founds the settings again: give --hash-seed and --cluster-mac if the old values must stay. Change
the user or password in the same way. The znodes above /maglev0/<vip> may belong to anybody, as
long as the identity may read them and create missing children.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

DIGEST = "digest"
SASL = "sasl"
X509 = "x509"  # ZooKeeper's name for the identity in a client certificate
# SASL takes a user with @ or / for a Kerberos name.
_AUTH = re.compile(rf"({DIGEST}|{SASL}):([A-Za-z0-9._-]{{1,64}}):(.+)", re.DOTALL)


@dataclass(frozen=True)
class ZooKeeperAccess:
    """How to reach ZooKeeper; by default in the clear, without an identity.

    `scheme` is `DIGEST`, `SASL` or `None`. Files are paths. With `ca` the connection is TLS.
    """

    scheme: str | None = None
    user: str = ""
    # Not in repr(): an operator may have put the password itself here.
    password_file: str = field(default="", repr=False)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @classmethod
    def checked(
        cls, auth: tuple[str, str, str] | None, ca: str | None, cert: str | None, key: str | None
    ) -> ZooKeeperAccess:
        """Combine the flags; `auth` is what `parse_auth` returns.

        ValueError names a flag that needs another one.
        """
        if cert is None and key is not None:
            raise ValueError("--zk-key needs --zk-cert: give the certificate of the key")
        if cert is not None and key is None:
            raise ValueError(
                "--zk-cert needs --zk-key: give the file of its private key, which may be the same "
                "file"
            )
        if cert is not None and ca is None:
            raise ValueError(
                "--zk-cert needs --zk-ca: give the certificates of the CA of ZooKeeper's servers"
            )
        scheme, user, password_file = auth or (None, "", "")
        return cls(scheme, user, password_file, ca, cert, key)

    @property
    def identity_scheme(self) -> str | None:
        """ZooKeeper's scheme of this node's identity; `None` without an identity."""
        return self.scheme or (X509 if self.cert else None)

    def __str__(self) -> str:
        how = "in the clear" if self.ca is None else "by TLS"
        who = {None: "nobody", X509: "its certificate's subject"}.get(
            self.identity_scheme, f"{self.scheme} user {self.user}"
        )
        return f"{how} as {who}"


NOBODY = ZooKeeperAccess()
"""In the clear, without an identity: every client may change the znodes created."""


def parse_auth(text: str) -> tuple[str, str, str]:
    """Read --zk-auth: scheme, user and password file. ValueError says what is allowed."""
    found = _AUTH.fullmatch(text)
    if not found or not text.isprintable():
        raise ValueError(
            f"must be {DIGEST}:USER:PASSWORD-FILE or {SASL}:USER:PASSWORD-FILE; a user is 1 to 64 "
            "letters, digits, dots, dashes and underscores"
        )
    return found[1], found[2], found[3]


def parse_file(text: str) -> str:
    """Read the path of a file, as --zk-ca takes it; ValueError says what is allowed."""
    if not text or not text.isprintable():
        raise ValueError("must be the path of a file")
    return text
