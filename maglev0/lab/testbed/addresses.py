"""The addresses of the lab's machines.

Traffic runs in 198.18.0.0/16 and management in 198.19.0.0/16, the two halves of the range that
RFC 2544 reserves for such tests.
Pure: imports no I/O.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

VIP = IPv4Address("198.51.100.1")
PREFIX_LENGTH = 16
# The client's addresses. Nodes reach them through one router: Linux keeps at most 1,024 neighbour
# entries in all namespaces together.
CLIENT_ROUTER = IPv4Address("198.18.99.1")
CLIENTS = IPv4Network("198.18.100.0/22")
# Client addresses that no kernel owns: only packet sockets read the answers.
PROBERS = IPv4Network("198.18.128.0/17")
SERVICE_PORT = 8000
_NODES = IPv4Address("198.18.0.0")
_MANAGED_NODES = IPv4Address("198.19.0.0")
_MANAGED_ZOOKEEPERS = IPv4Address("198.19.1.0")
# Locally administered; M and G in ASCII make them easy to spot in a packet dump.
_NODE_MAC_PREFIX = "02:4d:47:00:"
_NODE_MAC_BYTES = bytes.fromhex("024d4700")


def node_address(node: int) -> IPv4Address:
    """The node's own address on the traffic network."""
    return _NODES + node


def managed_address(node: int) -> IPv4Address:
    """The node's address on the management network."""
    return _MANAGED_NODES + node


def zookeeper_address(server: int) -> IPv4Address:
    """A ZooKeeper server's address on the management network."""
    return _MANAGED_ZOOKEEPERS + server


def client_address(client: int) -> IPv4Address:
    """The address of client 0, 1, …; raises IndexError beyond the range."""
    return CLIENTS[client + 1]


def prober_address(prober: int) -> IPv4Address:
    """The address of prober 0, 1, …; raises IndexError beyond the range."""
    return PROBERS[prober + 1]


def node_mac(node: int) -> str:
    """The MAC address of the node's traffic interface; it identifies the node that sent a frame."""
    high, low = divmod(node, 256)
    return f"{_NODE_MAC_PREFIX}{high:02x}:{low:02x}"


def answerer(mac: str) -> str:
    """'backend-<id>' for a node's MAC address; any other address is returned as it is."""
    if not mac.startswith(_NODE_MAC_PREFIX):
        return mac
    return f"backend-{int(mac.removeprefix(_NODE_MAC_PREFIX).replace(':', ''), 16)}"


def node_of(mac: bytes) -> int:
    """The number of the node with this MAC address; 0 where no node has it."""
    return int.from_bytes(mac[4:]) if mac[:4] == _NODE_MAC_BYTES else 0
