"""pytest collects the tests under guest/ only inside the virtual machine.

Outside, test_machine.py runs them there and reports their results.
"""

from __future__ import annotations

import os

from tests.vm.machine import IN_MACHINE

collect_ignore = [] if os.environ.get(IN_MACHINE) else ["guest"]
