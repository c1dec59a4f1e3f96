"""A server with one cable in a namespace of its own, and what an operator would look at there."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

from pyroute2 import IPRoute

from maglev0.lab.testbed import namespace

VIP = "198.51.100.1"
PROC_FILE = Path("/proc/thread-self/net/ipt_CLUSTERIP") / VIP
BY_HAND = (
    f"--insert INPUT --destination {VIP} -i eth0 --jump CLUSTERIP --new --hashmode sourceip "
    "--clustermac 01:00:5E:00:00:14 "
    "--total-nodes 5 --local-node 1"
)


@dataclass(frozen=True)
class Space:
    """`name` is the server's namespace, `outside` that of the cable's other end, `far`."""

    name: str
    outside: str

    @classmethod
    @contextlib.contextmanager
    def made(cls) -> Iterator[Self]:
        """Make both, enter the server's, and remove them in the end."""
        number = next(
            number for number in count() if not namespace.path_of(f"server{number}").exists()
        )
        made = cls(f"server{number}", f"outside{number}")
        namespace.create(made.name)
        namespace.create(made.outside)
        try:
            with namespace.inside(made.name):
                made._plug_cable()
                try:
                    yield made
                finally:
                    flush()
        finally:
            namespace.remove(made.name)
            namespace.remove(made.outside)

    def _plug_cable(self) -> None:
        with IPRoute() as netlink:
            netlink.link("set", ifname="lo", state="up")
            netlink.link(
                "add", ifname="eth0", kind="veth", peer={"ifname": "far", "net_ns_fd": self.outside}
            )
        with namespace.inside(self.outside), IPRoute() as netlink:
            netlink.link("set", ifname="far", state="up")
        with IPRoute() as netlink:
            netlink.link("set", ifname="eth0", state="up")


def iptables(arguments: str) -> str:
    """Run the legacy iptables as an operator would; what it prints."""
    return subprocess.run(
        ["iptables-legacy", *arguments.split()],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout


def flush() -> None:
    """Remove every CLUSTERIP rule, which must not be there when its namespace goes.

    The target looks for its device once more a grace period after the rule is gone
    (clusterip_config_rcu_free), in a table of names that may then be freed: seen to bring the whole
    kernel down.
    """
    if PROC_FILE.parent.exists() and any(PROC_FILE.parent.iterdir()):
        iptables("-F")


def clusterip_rules() -> list[str]:
    """The rules of INPUT that jump to the target, as iptables prints them."""
    return [line for line in iptables("-S INPUT").splitlines() if "-j CLUSTERIP" in line]


def in_force() -> str | None:
    """The proc file's own words; None where there is no rule."""
    return PROC_FILE.read_text().strip() if PROC_FILE.exists() else None


def add_address(label: str | None = None, prefixlen: int = 32) -> None:
    """Put the VIP on eth0 as an operator would."""
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        netlink.addr(
            "add",
            index=index,
            address=VIP,
            prefixlen=prefixlen,
            **({} if label is None else {"label": label}),
        )


def remove_address() -> None:
    """Take the VIP away behind the daemon's back."""
    with IPRoute() as netlink:
        for address in netlink.get_addr(family=socket.AF_INET):
            if address.get("IFA_LOCAL") == VIP:
                netlink.addr(
                    "del", index=address["index"], address=VIP, prefixlen=address["prefixlen"]
                )


def addresses() -> list[str]:
    """The VIP wherever it is, with its label."""
    with IPRoute() as netlink:
        found = [
            address
            for address in netlink.get_addr(family=socket.AF_INET)
            if address.get("IFA_LOCAL") == VIP
        ]
    return [f"{VIP}/{address['prefixlen']} {address.get('IFA_LABEL')}" for address in found]


def set_link(state: str) -> None:
    """Switch eth0 up or down."""
    with IPRoute() as netlink:
        netlink.link("set", ifname="eth0", state=state)
