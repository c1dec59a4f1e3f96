"""The tests under guest/ are for the inside of the virtual machine alone; outside, test_machine.py speaks for them."""

from __future__ import annotations

import os

from tests.vm.machine import IN_MACHINE

collect_ignore = [] if os.environ.get(IN_MACHINE) else ["guest"]
