"""The protocol under an adversary: whole clusters in virtual time, in which everything that the documentation allows to happen does."""

from __future__ import annotations
