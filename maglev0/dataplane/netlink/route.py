"""Questions to rtnetlink, whose refusals are errors of the dataplane."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from maglev0.errors import DataplaneError


@asynccontextmanager
async def asking(what: str = "links and addresses") -> AsyncIterator[AsyncIPRoute]:
    """Open rtnetlink to ask for `what`; what the kernel refuses is raised as a `DataplaneError`."""
    try:
        async with AsyncIPRoute() as netlink:
            yield netlink
    except (NetlinkError, OSError) as error:
        raise DataplaneError(f"asking the kernel for {what}: {error.args[-1]}") from error
