"""Reads password, certificates and key of a `ZooKeeperAccess`; no error repeats their text."""

from __future__ import annotations

import os
import ssl
import stat

from maglev0.config.zookeeper_access import ZooKeeperAccess
from maglev0.errors import ConfigError

MAX_PASSWORD_BYTES = 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def password(access: ZooKeeperAccess) -> str:
    """Read the password of --zk-auth; ConfigError if it is unreadable or open to other users."""
    path, what = access.password_file, f"--zk-auth={access.scheme}:{access.user}"
    try:
        # Opening a pipe without a writer would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        # The error does not repeat the path: it may be the password itself.
        raise ConfigError(
            f"{what}: cannot read the password file, named after the user: {_cause(error)}"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{what}: {path} is not a regular file")
        if status.st_mode & _OTHERS:
            raise ConfigError(f"{what}: other users can read or change {path}: chmod 600 {path}")
        content = file.read(MAX_PASSWORD_BYTES + 1)
    return _password(content, f"{what}: {path}")


def _password(content: bytes, what: str) -> str:
    if len(content) > MAX_PASSWORD_BYTES:
        raise ConfigError(
            f"{what} is longer than {MAX_PASSWORD_BYTES} bytes, the limit of a password"
        )
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} is not UTF-8 text") from error
    if not text:
        raise ConfigError(f"{what} is empty: write the password into this file")
    if not text.isprintable():
        raise ConfigError(f"{what} has more than one line, or characters that are not printable")
    return text


def tls(access: ZooKeeperAccess) -> ssl.SSLContext | None:
    """Return the TLS context of the connection; `None` without --zk-ca.

    It verifies the servers by this CA alone and by their names, and shows them our certificate.
    Raises ConfigError if a file cannot be used.
    """
    if access.ca is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(access.ca)
    except ssl.SSLError as error:
        raise ConfigError(f"--zk-ca={access.ca}: not a certificate in PEM form") from error
    except OSError as error:
        raise ConfigError(f"--zk-ca={access.ca}: {_cause(error)}") from error
    if access.cert is not None:
        _show(context, access.cert, access.key or access.cert)
    return context


def _show(context: ssl.SSLContext, cert: str, key: str) -> None:
    for flag, path in (("--zk-cert", cert), ("--zk-key", key)):
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{flag}={path}: cannot read this file")
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"--zk-key={key}: not the key of --zk-cert={cert}") from error
        raise ConfigError(
            f"--zk-cert={cert}, --zk-key={key}: "
            "not a certificate and its key in PEM form, without a passphrase"
        ) from error
    except OSError as error:
        raise ConfigError(f"--zk-cert={cert}, --zk-key={key}: {_cause(error)}") from error


def _no_passphrase() -> str:
    # Without this function OpenSSL reads a passphrase from the terminal.
    return ""


def _cause(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
