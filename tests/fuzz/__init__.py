"""Whatever may lie in ZooKeeper, against all that reads it: a few seconds of it in the suite, for as long as wanted by `python -m tests.fuzz`."""

from __future__ import annotations
