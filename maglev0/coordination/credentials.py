"""The files behind a `ZooKeeperAccess`: its password, and the certificates and the key of its TLS. No message repeats what is in them."""

from __future__ import annotations

import os
import ssl
import stat

from maglev0.config.zookeeper_access import ZooKeeperAccess
from maglev0.errors import ConfigError

MAX_PASSWORD_BYTES = 1024
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def password(access: ZooKeeperAccess) -> str:
    """Read the password of --zk-auth. Raises ConfigError where its file cannot be read, or others than its owner can reach into it."""
    path, what = access.password_file, f"--zk-auth={access.scheme}:{access.user}"
    try:
        # Without blocking, for a pipe that nobody writes into would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        # The path is not repeated: what cannot be opened may be the password itself.
        raise ConfigError(
            f"{what}: the password's file, named behind the user, cannot be read: {_cause(error)}"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{what}: {path} is no regular file")
        if status.st_mode & _OTHERS:
            raise ConfigError(
                f"{what}: others than its owner may use the password in {path}: chmod 600 {path}"
            )
        content = file.read(MAX_PASSWORD_BYTES + 1)
    return _password(content, f"{what}: {path}")


def _password(content: bytes, what: str) -> str:
    if len(content) > MAX_PASSWORD_BYTES:
        raise ConfigError(f"{what} is longer than a password may be: {MAX_PASSWORD_BYTES} bytes")
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} is not text in UTF-8") from error
    if not text:
        raise ConfigError(f"{what} is empty: write the password into it")
    if not text.isprintable():
        raise ConfigError(f"{what} holds more than one line, or what is not printable")
    return text


def tls(access: ZooKeeperAccess) -> ssl.SSLContext | None:
    """What verifies ZooKeeper's servers, by that CA alone and by their names, and shows them our certificate; `None` where it is not to be TLS."""
    if access.ca is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(access.ca)
    except ssl.SSLError as error:
        raise ConfigError(f"--zk-ca={access.ca}: no certificate in PEM form") from error
    except OSError as error:
        raise ConfigError(f"--zk-ca={access.ca}: {_cause(error)}") from error
    if access.cert is not None:
        _show(context, access.cert, access.key or access.cert)
    return context


def _show(context: ssl.SSLContext, cert: str, key: str) -> None:
    for flag, path in (("--zk-cert", cert), ("--zk-key", key)):
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{flag}={path}: no file that can be read")
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"--zk-key={key}: it is not the key of --zk-cert={cert}") from error
        raise ConfigError(
            f"--zk-cert={cert}, --zk-key={key}: not a certificate and its key in PEM form, without a passphrase"
        ) from error
    except OSError as error:
        raise ConfigError(f"--zk-cert={cert}, --zk-key={key}: {_cause(error)}") from error


def _no_passphrase() -> str:
    # Asked for one, OpenSSL would read it from the terminal.
    return ""


def _cause(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
