from __future__ import annotations

from ipaddress import IPv4Address

from maglev0.lab.testbed import addresses
from maglev0.lab.testbed.node_log import Picture, announcements, latest

BLOCK = """\
2026-01-02T03:04:05.678+00:00 [1 3]
2026-01-02T03:04:05.678+00:00 backend-3 is responsible for node 1
2026-01-02T03:04:05.678+00:00 backend-1 (me!) is responsible for node 2
2026-01-02T03:04:05.678+00:00 CLUSTERIP Nodes:  2
"""
COUNTS = """\
[1 3]
backend-1 (me!) is responsible for 50 nodes (49.50%)
backend-3 is responsible for 51 nodes (50.50%)
NFTABLES Nodes:  50 of 101
"""


def test_a_block_with_a_line_for_each_bucket() -> None:
    assert latest("something else\n" + BLOCK) == Picture(
        (1, 3), {1: "backend-3", 2: "backend-1"}, {"backend-3": 1, "backend-1": 1}, "2"
    )


def test_a_block_with_counts() -> None:
    assert latest(COUNTS) == Picture((1, 3), {}, {"backend-1": 50, "backend-3": 51}, "50 of 101")


def test_a_block_without_the_kernel_line_is_ignored() -> None:
    assert latest(BLOCK + "[1]\nbackend-1 (me!) is responsible for node 1\n") == latest(BLOCK)
    assert latest("NFTABLES Nodes:  3\n") is None


def test_the_last_block_wins() -> None:
    picture = latest(BLOCK + "[]\nNFTABLES Nodes:\n")
    assert picture == Picture((), {}, {}, "")


def test_each_block_and_each_joining_is_an_announcement() -> None:
    assert announcements(BLOCK + "[1]\n" + COUNTS) == 2
    assert (
        announcements(
            "2026-01-02T03:04:05.678+00:00 joined as backend-1, session 0x1, timeout 1.0 s\n"
        )
        == 1
    )
    assert announcements("something else\n") == 0


def test_addresses_of_nodes_and_clients() -> None:
    assert addresses.node_address(300) == IPv4Address("198.18.1.44")
    assert addresses.managed_address(2) == IPv4Address("198.19.0.2")
    assert addresses.zookeeper_address(3) == IPv4Address("198.19.1.3")
    assert len({addresses.client_address(client) for client in range(1000)}) == 1000
    assert addresses.answerer(addresses.node_mac(300)) == "backend-300"
