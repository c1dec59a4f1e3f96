"""The directory that outlives this process, and the boot that its files belong to."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

_DEFAULT = "/run/maglev0"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def run_directory() -> Path:
    """Return the daemon's runtime directory, which may not exist yet.

    systemd names it in $RUNTIME_DIRECTORY, and keeps it while the unit restarts.
    """
    return Path(os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0] or _DEFAULT)


def boot_id() -> str:
    """Return the identity of this run of the kernel (random(4))."""
    return _BOOT_ID.read_text("ascii").strip()


def replace_file(path: Path, text: str) -> None:
    """Write a file completely or not at all, readable for its owner only; OSError on failure.

    Creates the directory too, with the same rights.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(
            os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w"
        ) as file:
            file.write(text)
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
