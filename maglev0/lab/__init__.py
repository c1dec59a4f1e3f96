"""A cluster in a box: namespaces joined by a flooding switch, a real ZooKeeper, real daemons and a client that counts every answer.

The demo (``maglev0 lab``) shows it; the tests build their clusters from the same parts.
"""

from __future__ import annotations
