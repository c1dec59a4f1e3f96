"""Whether this kernel has the modules that CLUSTERIP needs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from maglev0.dataplane.clusterip import guard, proc_file
from maglev0.errors import UnavailableError


def check() -> None:
    """Raise UnavailableError when this kernel lacks a module that CLUSTERIP needs."""
    # A directory exists as soon as the module is loaded, in every namespace. A container may see
    # the directory and not the module's file.
    if proc_file.PROC_DIR.is_dir() and guard.LISTS_DIR.is_dir():
        return
    release = os.uname().release
    modules = _names(release)
    if not proc_file.PROC_DIR.is_dir() and "ipt_CLUSTERIP" not in (modules or ()):
        raise UnavailableError(
            f"this kernel ({release}) has no module ipt_CLUSTERIP, which left Linux in 6.3: "
            "use --dataplane=nftables, or install the package of extra modules of an older kernel"
        )
    # The kernel loads matches itself when a rule asks for them, so a list that cannot be seen is no
    # reason to refuse.
    if not guard.LISTS_DIR.is_dir() and modules is not None and "xt_recent" not in modules:
        raise UnavailableError(
            f"this kernel ({release}) has no module xt_recent, which holds clusterip's lease: "
            "install the kernel's package of extra modules"
        )


def _names(release: str) -> frozenset[str] | None:
    """Return the names of the kernel's modules, loaded or not; None where they are hidden."""
    found: set[str] = set()
    for index in ("modules.dep", "modules.builtin"):
        with contextlib.suppress(OSError):
            text = Path("/lib/modules", release, index).read_text("ascii", "replace")
            found |= {
                line.partition(":")[0].rpartition("/")[2].partition(".ko")[0]
                for line in text.splitlines()
            }
    return frozenset(found) or None
