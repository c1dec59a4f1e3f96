"""The configuration of a daemon that tests start in their own process."""

from __future__ import annotations

from maglev0.config import command_line
from maglev0.config.configuration import Config

VIP = "198.51.100.1"


def config(*flags: str, vips: tuple[str, ...] = (VIP,)) -> Config:
    """A dry run of member 1 with a ZooKeeper that is not there; `flags` come besides."""
    required = ("--zk=127.0.0.1:1", "--my-id=1", f"--cluster-ip={','.join(vips)}", "--dry-run")
    return command_line.read([*required, *flags])
