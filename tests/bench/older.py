"""What a packet costs in a 6.1 kernel, which still has CLUSTERIP.

`python -m tests.bench.older`; all is emulated, so only the ratios tell.

The same program runs in the machine that the tests of that dataplane run in.
"""

from __future__ import annotations

import sys
import time

from tests.bench.sheet import RESULTS, publish, read
from tests.vm.kernel_image import kernel_image
from tests.vm.machine import PYTHON, run_in_machine

NAME = "packets-6.1"
ROUNDS, SAMPLES, PACKETS = 3, 3, 10_000
MACHINE_TIMEOUT_S = 900.0


def main() -> None:
    """Boot, measure, and show what came out."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{NAME}.json"
    path.unlink(missing_ok=True)
    start_s = time.monotonic()
    command = [
        PYTHON,
        "-m",
        "tests.bench.packets",
        *(str(number) for number in (ROUNDS, SAMPLES, PACKETS)),
    ]
    console = run_in_machine(kernel_image(), command, RESULTS, MACHINE_TIMEOUT_S)
    sheet = read(NAME)
    if sheet is None:
        sys.exit(
            "the 6.1 machine gave no figures; its last words:\n"
            + "\n".join(console.splitlines()[-30:])
        )
    publish(sheet._replace(note=f"{sheet.note}; {time.monotonic() - start_s:.0f} s"))


if __name__ == "__main__":
    main()
