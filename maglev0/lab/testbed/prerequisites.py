"""Checks that a machine can run a lab, before the lab is built."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from maglev0.dataplane import select
from maglev0.lab.errors import LabError
from maglev0.lab.testbed import addresses, zookeeper

if TYPE_CHECKING:
    from maglev0.core.service import HashFamily


def check(dataplane: HashFamily | None) -> None:
    """Return if a lab can run here.

    Raises LabError or UnavailableError that names the first missing thing and how to fix it.
    """
    check_root()
    if shutil.which("nsenter") is None:
        raise LabError("nsenter is missing: apt install util-linux")
    lacking = zookeeper.missing()
    if lacking is not None:
        raise LabError(lacking)
    select.runnable(addresses.VIP, dataplane)


def check_root() -> None:
    """Return if this process may create and enter network namespaces; raises LabError if not."""
    if os.geteuid() != 0:
        raise LabError(
            "the lab makes and enters network namespaces, which takes root: run it with sudo"
        )
