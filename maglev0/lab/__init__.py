"""A cluster in a box: namespaces on a flooding switch, a real ZooKeeper, daemons and clients.

What comes in: the size of the lab, and faults to cause. What goes out: a demonstration, a lab that
people control by commands, and counts of every answer that clients got. The demonstration, the
commands, chaos and the tests build their clusters from the same parts (testbed, traffic). The lab
starts daemons as an operator does: it must not reach into a running one.
"""

from __future__ import annotations
