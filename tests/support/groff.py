"""groff as the judge of man pages."""

from __future__ import annotations

import subprocess
from pathlib import Path


def shown(page: Path) -> str:
    """The page as a terminal shows it, in one line; troff and tbl have no warning about it."""
    done = subprocess.run(
        ["groff", "-t", "-man", "-ww", "-Tutf8", "-P-cbou", page],
        check=True,
        capture_output=True,
        timeout=60,
    )
    assert done.stderr == b""
    return " ".join(done.stdout.decode().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split())
