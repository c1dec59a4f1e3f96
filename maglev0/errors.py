"""What can go wrong, by whose fault it is.

The text of every error here is one line for the operator: what was being done, the cause and, where
there is one, the remedy. The code at the edge converts errors of libraries into these, with ``raise
… from``.
"""

from __future__ import annotations


class MaglevError(Exception):
    """The base of all errors that end a maglev0 command.

    `exit_status` is what the process returns then.
    """

    exit_status = 1


class ConfigError(MaglevError):
    """A flag is wrong or contradicts the cluster.

    Another start with the same flags cannot help.
    """

    exit_status = 2


class ZooKeeperError(MaglevError):
    """ZooKeeper refused for a reason that does not pass with time.

    For example missing rights, an id in use, or settings that changed meanwhile.
    """


class DataplaneError(MaglevError):
    """The kernel refused what a dataplane asked of it."""


class UnavailableError(DataplaneError):
    """A dataplane cannot run on this machine.

    A module, a program, a library or a right is missing.
    """
