"""What can go wrong, by whose fault it is.

The text of every error here is one line for the operator: what was being done, the cause and, where there is one, what mends it.
Errors of libraries are turned into these at the edge where they arise, with ``raise … from``.
"""

from __future__ import annotations


class MaglevError(Exception):
    """The base of all errors that a maglev0 command ends with; `exit_status` is what the process returns then."""

    exit_status = 1


class ConfigError(MaglevError):
    """A flag is wrong, or contradicts the cluster; starting again with the same flags cannot help."""

    exit_status = 2


class ZooKeeperError(MaglevError):
    """ZooKeeper refused for a reason that waiting does not mend: rights, an identity in use, settings changed meanwhile."""


class DataplaneError(MaglevError):
    """The kernel refused what a dataplane asked of it."""


class UnavailableError(DataplaneError):
    """A dataplane cannot run on this machine: a module, a program, a library or a right is missing."""
