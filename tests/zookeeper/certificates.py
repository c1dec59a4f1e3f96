"""Certificates for servers and clients, made by openssl(1): PEM, with the key in the same file."""

from __future__ import annotations

import subprocess
from pathlib import Path

_KEY = (
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
)  # a key of RSA takes tenths of a second


class Authority:
    """Who signs certificates; `certificate` is what trusts it."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self.certificate = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        _openssl(
            "req",
            "-x509",
            *_KEY,
            "-keyout",
            self._key,
            "-out",
            self.certificate,
            "-days",
            2,
            "-subj",
            f"/CN={name}",
        )

    def issue(self, name: str, *, days: int = 1, host: str = "IP:127.0.0.1") -> Path:
        """A certificate for that name, for `days` from now, which may be over, and its key."""
        key, request, signed, both = (
            self._directory / f"{self._name}-{name}.{kind}"
            for kind in ("key", "csr", "crt", "both")
        )
        _openssl(
            "req", "-new", *_KEY, "-keyout", key, "-out", request, "-subj", f"/O=maglev0/CN={name}"
        )
        extensions = self._directory / "extensions"
        extensions.write_text(f"subjectAltName={host}\n")
        by = (
            "-CA",
            self.certificate,
            "-CAkey",
            self._key,
            "-CAcreateserial",
            "-extfile",
            extensions,
        )
        _openssl("x509", "-req", "-in", request, *by, "-days", days, "-out", signed)
        both.write_text(signed.read_text() + key.read_text())
        both.chmod(0o600)
        return both

    def locked(self, name: str) -> Path:
        """The key of what was issued to that name, under a passphrase."""
        locked = self._directory / f"{self._name}-{name}.locked"
        _openssl(
            "pkey",
            "-in",
            self._directory / f"{self._name}-{name}.key",
            "-aes256",
            "-passout",
            "pass:something",
            "-out",
            locked,
        )
        return locked


def _openssl(*arguments: object) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
