"""`maglev0 doctor`: finds what breaks clusters on this machine, in its network and in ZooKeeper.

Each subpackage examines one thing: `read` asks the kernel, the network or ZooKeeper and returns
plain values; `judge` is pure and turns them into findings. `cluster_state` and `member_state` judge
what ZooKeeper holds of the cluster. `examination` runs them all. It changes nothing.
"""

from __future__ import annotations

from maglev0.operator.doctor.command import main

__all__ = ["main"]
