"""Fuzzing of all that reads znodes: seconds in the suite, longer by `python -m tests.fuzz`."""

from __future__ import annotations
