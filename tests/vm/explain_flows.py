"""`maglev0 explain` against a kernel with CLUSTERIP, in a machine of its own: `python -m tests.vm.explain_flows [COUNT [SEED]]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.vm.kernel_image import kernel_image
from tests.vm.machine import PYTHON, run_in_machine

TIMEOUT_S = 3600.0


def main() -> int:
    """Print what the machine printed; 1 unless all agree."""
    with tempfile.TemporaryDirectory() as results:
        console = run_in_machine(
            kernel_image(),
            [PYTHON, "-m", "tests.vm.guest.explain_flows", *sys.argv[1:]],
            Path(results),
            TIMEOUT_S,
        )
    told = [
        line for line in console.splitlines() if line.startswith(("seed", "clusterip", "Flow("))
    ]
    sys.stdout.write("\n".join(told or console.splitlines()[-40:]) + "\n")
    return 0 if told and "Flow(" not in "".join(told) else 1


if __name__ == "__main__":
    sys.exit(main())
