"""`maglev0 doctor`: looks for what breaks clusters like these, on this machine, in its network and in ZooKeeper.

Each area is read by a thin shell (`machine`, `network`, `netfilter`, `wire`, `servers`) into values, and judged by a pure module.
"""

from __future__ import annotations

from maglev0.operator.doctor.command import main

__all__ = ["main"]
