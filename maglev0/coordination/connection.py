"""Kazoo's connection, with TLS that trusts one CA, bounded authentication, no secret in the log.

Kazoo itself also trusts all CAs of the machine, leaves Nagle's algorithm on, sends SASL requests
for ever to a server without SASL, reports a broken connection as a wrong password, and logs failed
requests with the passwords in them.
"""

from __future__ import annotations

import logging
import socket
import ssl
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError, SASLException
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import ConnectionDropped, ConnectionHandler
from kazoo.protocol.serialization import SASL, Connect
from kazoo.retry import KazooRetry

from maglev0.config.zookeeper_access import DIGEST, ZooKeeperAccess
from maglev0.coordination import credentials, translation

RECONNECT_DELAY_S = 0.05
MAX_RECONNECT_DELAY_S = 2.0  # a node reconnects at most this much after ZooKeeper is back
MAX_SASL_STEPS = 8  # DIGEST-MD5 takes three
# In a row. A server before 3.6 hangs up on a wrong password; every server hangs up when it stops.
MAX_SASL_DROPS = 3

_HARMLESS = (str, int, float, BaseException, type(None))

log = logging.getLogger("maglev0.kazoo")


class KazooHandler(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """Kazoo's threads, with connections by the TLS context given."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self._tls = tls

    def create_connection(self, *arguments: Any, **options: Any) -> socket.socket:
        """Connect to the address that kazoo names; TLS checks the name that kazoo resolved."""
        if self._tls is None:
            connection: socket.socket = super().create_connection(*arguments, **options)
            return connection
        connection = socket.create_connection(options["address"], options["timeout"])
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._tls.wrap_socket(connection, server_hostname=options["hostname"])
        except BaseException:
            connection.close()
            raise

    def select(
        self,
        readers: list[Any],
        writers: list[Any],
        others: list[Any],
        timeout: float | None = None,
    ) -> tuple[list[Any], ...]:
        """Wait as kazoo does.

        Bytes that TLS has decrypted count as readable: the socket no longer shows them.
        """
        pending = [
            reader for reader in readers if isinstance(reader, ssl.SSLSocket) and reader.pending()
        ]
        readable, writable, failed = super().select(
            readers, writers, others, 0 if pending else timeout
        )
        return (
            [*readable, *(reader for reader in pending if reader not in readable)],
            writable,
            failed,
        )


class KazooConnection(ConnectionHandler):  # type: ignore[misc]
    """Kazoo's protocol.

    `granted_timeout_s` is the session timeout that the server last granted. `refusal` is not empty
    once the servers have refused this identity for good.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.granted_timeout_s: float | None = None
        self.refusal = ""
        self._sasl_steps = self._sasl_drops = 0

    def _invoke(self, timeout: float, request: Any, xid: int | None = None) -> Any:
        try:
            answer = super()._invoke(timeout, request, xid)
        except AuthFailedError:
            # Every user and password are an identity, if not the right one.
            self.refusal = "they accept no digest identities"
            raise
        except translation.UNDECODABLE as error:
            raise ConnectionDropped(f"nonsense from the server: {type(error).__name__}") from error
        if isinstance(request, Connect) and answer[0].time_out > 0:
            self.granted_timeout_s = answer[0].time_out / 1000
        return answer

    def _read_socket(self, timeout: float) -> Any:
        try:
            return super()._read_socket(timeout)
        except translation.UNDECODABLE as error:
            # An answer that cannot be decoded, or without a request, would end kazoo's thread and
            # with it the session.
            raise ConnectionDropped(f"nonsense from the server: {type(error).__name__}") from error

    def _submit(self, request: Any, timeout: float, xid: int | None = None) -> None:
        if isinstance(request, SASL):
            self._sasl_steps += 1
            if self._sasl_steps > MAX_SASL_STEPS:
                raise SASLException("too many steps")
        super()._submit(request, timeout, xid)

    def _authenticate_with_sasl(self, host: str, timeout: float) -> None:
        self._sasl_steps = 0
        try:
            super()._authenticate_with_sasl(host, timeout)
        except AuthFailedError as error:
            self._sasl_drops += 1
            if isinstance(error.__cause__, ConnectionDropped) and self._sasl_drops < MAX_SASL_DROPS:
                raise ConnectionDropped("hung up during authentication") from error
            self.refusal = "wrong user or password"
            raise
        except SASLException as error:
            self.refusal = "they have no DIGEST-MD5 login in their JAAS configuration"
            raise AuthFailedError(str(error)) from error
        except translation.UNDECODABLE as error:
            raise ConnectionDropped(f"nonsense from the server: {type(error).__name__}") from error
        self._sasl_drops = 0


def client(
    hosts: str,
    timeout_s: float,
    access: ZooKeeperAccess,
    tls: ssl.SSLContext | None,
    former: tuple[int, bytes] | None,
) -> KazooClient:
    """Return kazoo's client, not started, which authenticates on every connection.

    `former` is the id and password of a session to resume.
    """
    secret = credentials.password(access) if access.scheme else ""
    if _hide_secrets not in log.filters:
        log.addFilter(_hide_secrets)
    digest = access.scheme == DIGEST
    made = KazooClient(
        hosts=hosts,
        timeout=timeout_s,
        client_id=former,
        handler=KazooHandler(tls),
        connection_retry=KazooRetry(
            max_tries=-1, delay=RECONNECT_DELAY_S, max_delay=MAX_RECONNECT_DELAY_S
        ),
        auth_data=[(DIGEST, f"{access.user}:{secret}")] if digest else None,
        logger=log,
        use_ssl=tls is not None,
    )
    sasl = (
        {"mechanism": "DIGEST-MD5", "username": access.user, "password": secret}
        if access.scheme and not digest
        else None
    )
    made._connection = KazooConnection(  # noqa: SLF001
        made,
        made._connection.retry_sleeper,  # noqa: SLF001
        logger=log,
        sasl_options=sasl,
    )
    return made


def _hide_secrets(record: logging.LogRecord) -> bool:
    """Filter kazoo's log: show only the kind of requests and answers, which may hold passwords."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            each if isinstance(each, _HARMLESS) else type(each).__name__ for each in record.args
        )
    return True
