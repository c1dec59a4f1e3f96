"""What a machine needs for a lab, looked at before anything is built."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from maglev0.dataplane import choose
from maglev0.lab import addresses, zookeeper
from maglev0.lab.errors import LabError

if TYPE_CHECKING:
    from maglev0.service import HashFamily


def check(dataplane: HashFamily | None) -> None:
    """Return if a lab can run here; else raise LabError or UnavailableError with the first thing missing and what mends it."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces, which takes root: run it with sudo")
    if shutil.which("nsenter") is None:
        raise LabError("nsenter is missing: apt install util-linux")
    lacking = zookeeper.missing()
    if lacking is not None:
        raise LabError(lacking)
    choose.runnable(addresses.VIP, dataplane)
