"""The CLUSTERIP check on the host's own kernel, outside the virtual machine."""

from __future__ import annotations

import os
import re

import pytest

from maglev0.dataplane.clusterip import dataplane as clusterip
from maglev0.errors import UnavailableError

RELEASE = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))


@pytest.mark.kernel
@pytest.mark.skipif(RELEASE < (6, 3), reason="kernels before 6.3 may have the target")
def test_a_kernel_without_the_target_is_told_apart() -> None:
    with pytest.raises(
        UnavailableError,
        match=r"has no module ipt_CLUSTERIP, which left Linux in 6\.3: use --dataplane=nftables",
    ):
        clusterip.check()
