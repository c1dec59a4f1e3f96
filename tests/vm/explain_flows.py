"""Compare `maglev0 explain` with a kernel that has CLUSTERIP, in a virtual machine.

Usage: `python -m tests.vm.explain_flows [COUNT [SEED]]`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.vm.kernel_image import kernel_image
from tests.vm.machine import PYTHON, run_in_machine

TIMEOUT_S = 3600.0


def main() -> int:
    """Print the machine's report; return 1 unless all flows agree."""
    with tempfile.TemporaryDirectory() as results:
        console = run_in_machine(
            kernel_image(),
            [PYTHON, "-m", "tests.vm.guest.explain_flows", *sys.argv[1:]],
            Path(results),
            TIMEOUT_S,
        )
    reported = [
        line for line in console.splitlines() if line.startswith(("seed", "clusterip", "Flow("))
    ]
    sys.stdout.write("\n".join(reported or console.splitlines()[-40:]) + "\n")
    return 0 if reported and "Flow(" not in "".join(reported) else 1


if __name__ == "__main__":
    sys.exit(main())
