"""What a stranger in ZooKeeper can do to members: forge a record, take a session."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kazoo.client import KazooClient

from maglev0.core.settings import FORMAT
from tests.zookeeper.site import DEADLINE_S, TIMEOUT_S

if TYPE_CHECKING:
    from tests.zookeeper.site import Node, Site

RECORD = {
    "id": 4,
    "host": "elsewhere",
    "pid": 1,
    "start_time": 0.0,
    "address": "",
    "mac": "",
    "dataplane": "nftables",
    "weight": 1,
    "state": "dry-run",
    "session_timeout_s": 1.0,
    "format": FORMAT,
}


def take_session_away(site: Site, node: Node) -> None:
    """Close a daemon's session by a second client that takes it over.

    Its password follows from its id: ZooKeeper's `generatePasswd` fills it from java.util.Random,
    seeded with the id and a constant.
    """
    session = node.session()
    state = (session ^ 0xB3415C00 ^ 0x5DEECE66D) & ((1 << 48) - 1)
    words = []
    for _ in range(4):
        state = (state * 0x5DEECE66D + 0xB) & ((1 << 48) - 1)
        words.append(state >> 16 & 0xFFFFFFFF)
    signed = session - (1 << 64) if session >> 63 else session
    thief = KazooClient(
        site.ensemble.connect_string,
        timeout=TIMEOUT_S,
        client_id=(signed, struct.pack("<4I", *words)),
    )
    thief.start(timeout=DEADLINE_S)
    assert thief.client_id[0] == signed
    thief.stop()
    thief.close()
