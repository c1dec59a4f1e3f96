"""The protocol under an adversary: whole clusters in virtual time.

Everything happens there that the documentation of ZooKeeper, kernel and clocks allows to happen.
"""

from __future__ import annotations
