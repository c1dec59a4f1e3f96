"""The commands for a lab that keeps running.

Pure: imports no I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maglev0.lab.testbed import addresses

if TYPE_CHECKING:
    from maglev0.lab.testbed.cluster import Lab


def text(cluster: Lab, *, alone: bool) -> str:
    """The guide to this lab, each command ready to be copied.

    Where the lab is not `alone` on its machine, commands need its name.
    """
    name, settings = cluster.claim.name, cluster.settings
    first, last = cluster.nodes[1].machine, cluster.nodes[settings.nodes].machine
    which = "" if alone else f"Several labs are running: add --lab={name} to each command.\n\n"
    commands = [
        ("status --watch", "all members and their buckets; Ctrl-C ends it"),
        (f"explain {addresses.client_address(0)}", "which node answers this client, and why"),
        ("doctor", "look for faults on a node and in the cluster"),
        ("probe", "ask 2000 times as clients do, and count the answers"),
        ("drain 2", "no new connections for backend-2; undrain 2 undoes it"),
        ("weight 2 3", "three shares for backend-2; weight 2 own undoes it"),
        ("kill 2", "kill backend-2's daemon; start 2 starts it again"),
        (f"cut {settings.nodes}", f"pull {last.name}'s cables; heal {settings.nodes} undoes it"),
        ("logs 1 --follow", f"what {first.name}'s daemon logs; without a number, all daemons"),
        ("shell 1", f"a shell on {first.name}: nft list ruleset, tcpdump -i eth0, ..."),
        ("shell client", "a shell where the clients are"),
        ("end", "remove the lab"),
    ]
    width = max(len(command) for command, _ in commands)
    listed = "\n".join(f"  maglev0 lab {command:{width}}  {what}" for command, what in commands)
    return (
        f"lab {name} is running: {first.name} to {last.name} serve {settings.vip}, "
        f"{settings.total_nodes} buckets\n\n{which}{listed}\n"
    )
