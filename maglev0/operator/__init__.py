"""The commands for people: a module or package for each, with its own help text and `main`.

Comes in: a command line, the configuration file, and what `telemetry.observer` reads of a cluster
in ZooKeeper. Goes out: text or JSON on stdout, an exit status, and for `drain`, `undrain` and
`weight` an order in ZooKeeper. Only `explain` and `doctor` look at this machine; no command changes
it. The commands know neither the daemon nor the lab.
"""

from __future__ import annotations
