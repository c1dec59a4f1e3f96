"""One VIP in one kernel: all ports of the kernel together."""

from __future__ import annotations

from typing import Protocol

from maglev0.core.service import HashFamily
from maglev0.protocol.ports.gate import Gate
from maglev0.protocol.ports.lease_timer import LeaseTimer
from maglev0.protocol.ports.readings import Readings, Statistics
from maglev0.protocol.ports.upkeep import Upkeep


class Dataplane(Gate, LeaseTimer, Readings, Statistics, Upkeep, Protocol):
    """One `Service` in one kernel.

    Created cheaply, without touching the kernel; then `open`, any number of the other calls, then
    `close`. The calls are never made side by side, except `disturbed`.
    """

    family: HashFamily
